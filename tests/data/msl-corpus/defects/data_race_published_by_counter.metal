// Partial sums are published through a relaxed counter, which orders nothing: the threadgroup
// that comes last reads what others wrote.
// dispatch: { "kernel": "sum", "threadgroups": [3, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 12 }, { "index": 1, "bytes": 4 },
//               { "index": 2, "bytes": 384, "init": "ones" }, { "index": 3, "bytes": 4 }] }
#include <metal_stdlib>
using namespace metal;

kernel void sum(device float *partial [[buffer(0)]],
                device atomic_uint *arrived [[buffer(1)]],
                device const float *in [[buffer(2)]],
                device float *out [[buffer(3)]],
                uint i [[thread_position_in_grid]],
                uint lane [[thread_index_in_simdgroup]],
                uint group [[threadgroup_position_in_grid]],
                uint groups [[threadgroups_per_grid]]) {
    const float mine = simd_sum(in[i]);
    if (lane != 0) {
        return;
    }
    partial[group] = mine; // other
    if (atomic_fetch_add_explicit(arrived, 1u, memory_order_relaxed) == groups - 1) {
        float all = 0.0f;
        for (uint g = 0; g < groups; g++) {
            all += partial[g]; // expect: data_race buffer=0
        }
        out[0] = all;
    }
}
