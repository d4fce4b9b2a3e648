// A matrix product needs every lane of the simdgroup; the last eight have left.
// dispatch: { "kernel": "product", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

kernel void product(device float *out [[buffer(0)]],
                    device const float *in [[buffer(1)]],
                    uint lane [[thread_index_in_simdgroup]]) {
    simdgroup_float8x8 block, square;
    simdgroup_load(block, in);
    square = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    if (lane < 24) {
        simdgroup_multiply_accumulate(square, block, block, square); // expect: divergent_simd
    }
    simdgroup_store(square, out);
}
