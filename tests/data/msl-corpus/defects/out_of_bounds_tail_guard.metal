// The guard of the tail lets i == n through: one element past the end is written.
// dispatch: { "kernel": "scale", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 400 }, { "index": 1, "bytes": 512, "init": "ramp_f32" },
//               { "index": 2, "bytes": 8, "init": { "u32": [100, 1073741824] } }] }
#include <metal_stdlib>
using namespace metal;

struct Params {
    uint n;
    float factor;
};

kernel void scale(device float *out [[buffer(0)]],
                  device const float *in [[buffer(1)]],
                  constant Params &params [[buffer(2)]],
                  uint i [[thread_position_in_grid]]) {
    if (i <= params.n) {
        out[i] = params.factor * in[i]; // expect: out_of_bounds buffer=0 offset=400 threadgroup=1,0,0 thread=36,0,0
    }
}
