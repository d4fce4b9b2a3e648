// A counter in threadgroup memory is counted up without a first value.
// dispatch: { "kernel": "rank", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }] }
#include <metal_stdlib>
using namespace metal;

kernel void rank(device uint *out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    threadgroup atomic_uint next;
    out[t] = atomic_fetch_add_explicit(&next, 1u, memory_order_relaxed); // expect: uninitialized_read offset=0 thread=0,0,0
}
