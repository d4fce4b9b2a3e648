// The condition is the same for all threads of a threadgroup, so all or none reach the barrier.
// dispatch: { "kernel": "flip", "threadgroups": [4, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 1024, "init": "ramp_f32" },
//               { "index": 1, "bytes": 4, "init": { "u32": [2] } }] }
#include <metal_stdlib>
using namespace metal;

kernel void flip(device float *x [[buffer(0)]],
                 constant uint &first [[buffer(1)]],
                 uint i [[thread_position_in_grid]],
                 uint t [[thread_index_in_threadgroup]],
                 uint group [[threadgroup_position_in_grid]]) {
    threadgroup float s[64];
    if (group >= first) {
        s[t] = x[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        x[i] = s[63 - t];
    }
}
