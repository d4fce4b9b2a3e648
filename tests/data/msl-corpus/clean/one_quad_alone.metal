// Only the first quad of the simdgroup takes the branch, and all four lanes of it do.
// dispatch: { "kernel": "corner", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 128, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void corner(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint lane [[thread_index_in_simdgroup]],
                   uint quad [[quadgroup_index_in_threadgroup]]) {
    float x = in[lane];
    if (quad == 0) {
        x = quad_sum(x) + quad_shuffle_xor(x, 1);
    }
    out[lane] = x;
}
