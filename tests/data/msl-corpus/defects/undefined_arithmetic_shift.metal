// The count reaches the width of the type.
// dispatch: { "kernel": "k", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }] }
#include <metal_stdlib>
using namespace metal;

kernel void k(device float *a [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    a[t] = float(1u << (t + 8u)); // expect: undefined_arithmetic thread=24,0,0
}
