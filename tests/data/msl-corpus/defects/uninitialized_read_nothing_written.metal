// Threadgroup memory is read that no thread writes.
// dispatch: { "kernel": "k", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }] }
#include <metal_stdlib>
using namespace metal;

kernel void k(device float *a [[buffer(0)]],
              uint i [[thread_position_in_grid]],
              uint t [[thread_index_in_threadgroup]]) {
    threadgroup float s[64];
    a[i] = s[t]; // expect: uninitialized_read offset=0 threadgroup=0,0,0 thread=0,0,0
}
