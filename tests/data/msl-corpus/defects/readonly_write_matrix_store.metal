// A simdgroup stores its block back over the input.
// dispatch: { "kernel": "square", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128, "init": "zero" }] }
#include <metal_stdlib>
using namespace metal;

kernel void square(device const half *in [[buffer(0)]]) {
    simdgroup_half8x8 block, product;
    simdgroup_load(block, in);
    simdgroup_multiply(product, block, block);
    simdgroup_store(product, (device half *)in); // expect: readonly_write buffer=0
}
