// A kernel and the template that does its work have one name, as overloads may.
// dispatch: { "kernel": "softmax", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "random_f32" }] }
#include <metal_stdlib>
using namespace metal;

template <typename T>
static T softmax(T x) {
    const T e = exp(x - simd_max(x));
    return e / simd_sum(e);
}

kernel void softmax(device float *out [[buffer(0)]],
                    device const float *in [[buffer(1)]],
                    uint i [[thread_position_in_grid]]) {
    out[i] = softmax(in[i]);
}
