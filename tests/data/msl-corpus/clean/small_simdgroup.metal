// 40 threads: the second simdgroup has eight lanes, and its operations have those eight.
// dispatch: { "kernel": "sums", "threadgroups": [2, 1, 1], "threads": [40, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 320 }, { "index": 1, "bytes": 320, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void sums(device float *out [[buffer(0)]],
                 device const float *in [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
    out[i] = in[i] / simd_sum(in[i] + 1.0f);
}
