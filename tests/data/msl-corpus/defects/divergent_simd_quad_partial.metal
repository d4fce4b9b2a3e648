// Three lanes of every quad swap; the fourth, whose value one of them takes, does not.
// dispatch: { "kernel": "diagonal", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 128, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void diagonal(device float *out [[buffer(0)]],
                     device const float *in [[buffer(1)]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint quad_lane [[thread_index_in_quadgroup]]) {
    float x = in[lane];
    if (quad_lane != 3) {
        x += quad_shuffle_xor(x, 3); // expect: divergent_simd
    }
    out[lane] = x;
}
