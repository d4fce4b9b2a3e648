// Both simdgroups store their 8 x 8 block at the same place.
// dispatch: { "kernel": "product", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

kernel void product(device float *out [[buffer(0)]],
                    device const float *in [[buffer(1)]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    simdgroup_float8x8 block, square;
    simdgroup_load(block, in + simdgroup * 64);
    simdgroup_multiply(square, block, block);
    simdgroup_store(square, out); // expect: data_race buffer=0 // other
}
