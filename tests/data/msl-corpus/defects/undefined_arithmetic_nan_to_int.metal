// A NaN from 0 / 0 is converted to an index.
// dispatch: { "kernel": "bucket", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 128, "init": "zero" }] }
#include <metal_stdlib>
using namespace metal;

kernel void bucket(device int *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint t [[thread_index_in_threadgroup]]) {
    const float top = simd_max(in[t]);
    out[t] = int(in[t] / top * 31.0f); // expect: undefined_arithmetic
}
