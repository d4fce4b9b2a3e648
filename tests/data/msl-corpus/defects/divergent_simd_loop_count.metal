// Lanes walk lists of different lengths and shuffle in every step.
// dispatch: { "kernel": "walk", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 128, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void walk(device uint *out [[buffer(0)]],
                 device const uint *lengths [[buffer(1)]],
                 uint lane [[thread_index_in_simdgroup]]) {
    uint x = lane;
    for (uint step = 0; step < lengths[lane] / 16 + 1; step++) {
        x += simd_shuffle_rotate_down(x, 1); // expect: divergent_simd thread=16,0,0
    }
    out[lane] = x;
}
