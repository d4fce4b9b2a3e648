// The value is clamped to what the type holds before it is converted; NaN becomes 0 by select.
// dispatch: { "kernel": "quantise", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 64 },
//               { "index": 1, "bytes": 256, "init": { "u32": [2143289344, 2139095040, 4286578688] } }] }
#include <metal_stdlib>
using namespace metal;

kernel void quantise(device uchar *out [[buffer(0)]],
                     device const float *in [[buffer(1)]],
                     uint i [[thread_position_in_grid]]) {
    const float x = isnan(in[i]) ? 0.0f : clamp(in[i] * 255.0f, 0.0f, 255.0f);
    out[i] = uchar(rint(x));
}
