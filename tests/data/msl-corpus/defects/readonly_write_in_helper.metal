// An in-place helper is called with an input whose const was cast away.
// dispatch: { "kernel": "softmax", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "random_f32" }] }
#include <metal_stdlib>
using namespace metal;

static void exponential(device float *x, uint i, float top) {
    x[i] = exp(x[i] - top); // expect: readonly_write buffer=1
}

kernel void softmax(device float *out [[buffer(0)]],
                    device const float *in [[buffer(1)]],
                    uint i [[thread_position_in_grid]]) {
    const float top = simd_max(in[i]);
    exponential(const_cast<device float *>(in), i, top);
    out[i] = in[i] / simd_sum(in[i]);
}
