// Threads past the end bring a zero instead of leaving, so all of them reach the barrier.
// dispatch: { "kernel": "sum", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 8 }, { "index": 1, "bytes": 400, "init": "ones" },
//               { "index": 2, "bytes": 4, "init": { "u32": [100] } }] }
#include <metal_stdlib>
using namespace metal;

kernel void sum(device float *out [[buffer(0)]],
                device const float *in [[buffer(1)]],
                constant uint &n [[buffer(2)]],
                uint i [[thread_position_in_grid]],
                uint t [[thread_index_in_threadgroup]],
                uint group [[threadgroup_position_in_grid]]) {
    threadgroup float s[64];
    s[t] = i < n ? in[i] : 0.0f;
    for (uint distance = 32; distance > 0; distance /= 2) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (t < distance) {
            s[t] += s[t + distance];
        }
    }
    if (t == 0) {
        out[group] = s[0];
    }
}
