// Half the lanes shuffle, and read from lanes that are not there.
// dispatch: { "kernel": "k", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void k(device float *a [[buffer(0)]],
              device const float *b [[buffer(1)]],
              uint t [[thread_index_in_threadgroup]]) {
    if (t < 16) {
        a[t] = simd_shuffle_down(b[t], 16); // expect: divergent_simd thread=0,0,0
    }
}
