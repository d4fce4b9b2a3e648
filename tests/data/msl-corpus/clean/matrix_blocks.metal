// Two simdgroups, a block each, with a stride that fits the matrix.
// dispatch: { "kernel": "product", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

kernel void product(device float *out [[buffer(0)]],
                    device const float *in [[buffer(1)]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    simdgroup_float8x8 left, right;
    simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    for (uint k = 0; k < 2; k++) {
        simdgroup_load(left, in + k * 8, 16);
        simdgroup_load(right, in + simdgroup * 8, 16);
        simdgroup_multiply_accumulate(sum, left, right, sum);
    }
    simdgroup_store(sum, out + simdgroup * 8, 16);
}
