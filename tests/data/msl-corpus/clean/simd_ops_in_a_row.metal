// Two simdgroup operations in one expression, with every lane there.
// dispatch: { "kernel": "mix", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void mix(device float *a [[buffer(0)]],
                device const float *b [[buffer(1)]],
                uint i [[thread_position_in_grid]]) {
    a[i] = simd_sum(b[i]) + simd_shuffle_xor(b[i], 5);
}
