// Rounding to 8 bits without a clamp: 300 does not fit.
// dispatch: { "kernel": "quantise", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 64 }, { "index": 1, "bytes": 256, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void quantise(device uchar *out [[buffer(0)]],
                     device const float *in [[buffer(1)]],
                     uint i [[thread_position_in_grid]]) {
    out[i] = uchar(rint(in[i] * 6.0f)); // expect: undefined_arithmetic threadgroup=1,0,0 thread=11,0,0
}
