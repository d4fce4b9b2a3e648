// The barrier stands in a branch that 24 of 64 threads do not take.
// dispatch: { "kernel": "k", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }] }
#include <metal_stdlib>
using namespace metal;

kernel void k(device float *a [[buffer(0)]],
              uint i [[thread_position_in_grid]],
              uint t [[thread_index_in_threadgroup]]) {
    if (t < 40) {
        threadgroup_barrier(mem_flags::mem_threadgroup); // expect: divergent_barrier threadgroup=0,0,0 thread=0,0,0
    }
    a[i] = 1.0f;
}
