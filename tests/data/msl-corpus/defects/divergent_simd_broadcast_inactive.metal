// The upper lanes ask for the value of lane 0, which took the other branch.
// dispatch: { "kernel": "spread", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 128, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void spread(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint lane [[thread_index_in_simdgroup]]) {
    if (lane < 8) {
        out[lane] = 0.0f;
    } else {
        out[lane] = simd_broadcast(in[lane], 0); // expect: divergent_simd
    }
}
