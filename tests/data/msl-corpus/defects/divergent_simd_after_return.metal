// The guard of the tail returns some lanes of the last simdgroup; the tree of shuffles reads them.
// dispatch: { "kernel": "sum", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 8 }, { "index": 1, "bytes": 160, "init": "ones" },
//               { "index": 2, "bytes": 4, "init": { "u32": [40] } }] }
#include <metal_stdlib>
using namespace metal;

kernel void sum(device float *out [[buffer(0)]],
                device const float *in [[buffer(1)]],
                constant uint &n [[buffer(2)]],
                uint i [[thread_position_in_grid]],
                uint lane [[thread_index_in_simdgroup]],
                uint group [[threadgroup_position_in_grid]]) {
    if (i >= n) {
        return;
    }
    float x = in[i];
    for (ushort distance = 16; distance > 0; distance /= 2) {
        x += simd_shuffle_xor(x, distance); // expect: divergent_simd threadgroup=1,0,0
    }
    if (lane == 0) {
        out[group] = x;
    }
}
