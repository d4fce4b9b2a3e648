// A shift by memory in a template: lanes read what others of their simdgroup have just written.
// dispatch: { "kernel": "differences", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

template <typename T, uint Step>
static T from_lane_below(threadgroup T *s, uint lane, T x) {
    s[lane] = x; // expect: lockstep_reliance
    return s[lane < Step ? 0u : lane - Step]; // other
}

kernel void differences(device float *out [[buffer(0)]],
                        device const float *in [[buffer(1)]],
                        uint i [[thread_position_in_grid]],
                        uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float s[32];
    out[i] = in[i] - from_lane_below<float, 2>(s, lane, in[i]);
}
