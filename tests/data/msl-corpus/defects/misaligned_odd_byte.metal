// Floats are read from odd byte addresses.
// dispatch: { "kernel": "k", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void k(device float *a [[buffer(0)]],
              device const float *b [[buffer(1)]],
              uint t [[thread_index_in_threadgroup]]) {
    a[t] = *(device const float *)((device const char *)b + 1 + 4 * (t / 2)); // expect: misaligned buffer=1 offset=1 thread=0,0,0
}
