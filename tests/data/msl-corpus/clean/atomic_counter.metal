// All threads count at one place: set by one of them, a barrier, then atomics only.
// dispatch: { "kernel": "count", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }] }
#include <metal_stdlib>
using namespace metal;

kernel void count(device uint *a [[buffer(0)]],
                  uint i [[thread_position_in_grid]],
                  uint t [[thread_index_in_threadgroup]]) {
    threadgroup atomic_uint n;
    if (t == 0) {
        atomic_store_explicit(&n, 0u, memory_order_relaxed);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    a[i] = atomic_fetch_add_explicit(&n, 1u, memory_order_relaxed);
}
