// A generic clamp works in place, on an input whose const was cast away.
// dispatch: { "kernel": "limit", "threadgroups": [2, 1, 1], "threads": [8, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

template <typename T>
static void clamp_all(device T *x, uint count, T top) {
    for (uint j = 0; j < count; j++) {
        x[j] = min(x[j], top); // expect: readonly_write buffer=1 offset=0 thread=0,0,0
    }
}

kernel void limit(device float *out [[buffer(0)]],
                  device const float *in [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
    clamp_all((device float *)in + 4 * i, 4u, 9.0f);
    for (uint j = 4 * i; j < 4 * i + 4; j++) {
        out[j] = in[j];
    }
}
