// Two lanes exchange values through threadgroup memory and count on running in lockstep.
// dispatch: { "kernel": "swap", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void swap(device float *a [[buffer(0)]],
                 device const float *b [[buffer(1)]],
                 uint i [[thread_position_in_grid]],
                 uint t [[thread_index_in_threadgroup]]) {
    threadgroup float s[64];
    s[t] = b[i]; // other
    a[i] = s[t ^ 1]; // expect: lockstep_reliance
}
