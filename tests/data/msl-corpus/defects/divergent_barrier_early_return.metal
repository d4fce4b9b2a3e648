// The guard of the tail returns before the barrier that the other threads wait at.
// dispatch: { "kernel": "reverse", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 400 }, { "index": 1, "bytes": 400, "init": "ramp_f32" },
//               { "index": 2, "bytes": 4, "init": { "u32": [100] } }] }
#include <metal_stdlib>
using namespace metal;

kernel void reverse(device float *out [[buffer(0)]],
                    device const float *in [[buffer(1)]],
                    constant uint &n [[buffer(2)]],
                    uint i [[thread_position_in_grid]],
                    uint t [[thread_index_in_threadgroup]]) {
    threadgroup float s[64];
    if (i >= n) {
        return;
    }
    s[t] = in[i];
    threadgroup_barrier(mem_flags::mem_threadgroup); // expect: divergent_barrier threadgroup=1,0,0 thread=0,0,0
    out[i] = s[t];
}
