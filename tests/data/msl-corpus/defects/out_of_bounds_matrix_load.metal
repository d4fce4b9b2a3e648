// The 8 x 8 block at column 8 is loaded with the stride of a wider matrix.
// dispatch: { "kernel": "block_sum", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 512, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

kernel void block_sum(device float *out [[buffer(0)]], device const float *in [[buffer(1)]]) {
    simdgroup_float8x8 left, right, sum;
    simdgroup_load(left, in, 16);
    simdgroup_load(right, in + 8, 24); // expect: out_of_bounds buffer=1
    simdgroup_multiply(sum, left, right);
    simdgroup_store(sum, out, 8);
}
