// The simdgroup_barrier is there, with mem_none.
// dispatch: { "kernel": "rotate_half", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "threadgroup_memory": [{ "index": 1, "bytes": 64 }],
//   "buffers": [{ "index": 0, "bytes": 128, "init": "zero" }] }
#include <metal_stdlib>
using namespace metal;

kernel void rotate_half(device half *x [[buffer(0)]],
                        threadgroup half *s [[threadgroup(1)]],
                        uint i [[thread_position_in_grid]],
                        uint lane [[thread_index_in_simdgroup]]) {
    s[lane] = x[i]; // other
    simdgroup_barrier(mem_flags::mem_none);
    x[i] = s[(lane + 16) % 32]; // expect: lockstep_reliance
}
