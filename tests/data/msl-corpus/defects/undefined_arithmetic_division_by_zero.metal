// The divisor of thread 3 is zero.
// dispatch: { "kernel": "k", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }] }
#include <metal_stdlib>
using namespace metal;

kernel void k(device float *a [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    a[t] = float(7 / (int(t) - 3)); // expect: undefined_arithmetic thread=3,0,0
}
