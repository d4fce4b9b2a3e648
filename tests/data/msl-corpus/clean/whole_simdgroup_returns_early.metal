// The second simdgroup leaves as a whole; the first goes on with simdgroup operations only.
// dispatch: { "kernel": "first_half", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void first_half(device float *out [[buffer(0)]],
                       device const float *in [[buffer(1)]],
                       uint i [[thread_position_in_grid]],
                       uint lane [[thread_index_in_simdgroup]],
                       uint group [[threadgroup_position_in_grid]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    if (simdgroup > 0) {
        return;
    }
    const float sum = simd_prefix_inclusive_sum(in[i]);
    out[group * 32 + lane] = sum / simd_max(sum + 1.0f);
}
