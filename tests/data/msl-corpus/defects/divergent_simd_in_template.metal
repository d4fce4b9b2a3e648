// A generic total of the simdgroup is asked for by its even lanes only.
// dispatch: { "kernel": "totals", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

template <typename T>
static T total(T x) {
    return simd_sum(x); // expect: divergent_simd threadgroup=0,0,0 thread=0,0,0
}

kernel void totals(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint i [[thread_position_in_grid]],
                   uint lane [[thread_index_in_simdgroup]]) {
    float x = in[i];
    if ((lane & 1u) == 0u) {
        x = total(x);
    }
    out[i] = x;
}
