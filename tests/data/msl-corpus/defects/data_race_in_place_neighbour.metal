// A smoothing filter works in place: the left neighbour may be smoothed already.
// dispatch: { "kernel": "smooth", "threadgroups": [1, 1, 1], "threads": [96, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 384, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void smooth(device float *x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    const float left = x[max(i, 32u) - 32]; // expect: data_race buffer=0 offset=0 thread=32,0,0
    x[i] = 0.5f * (left + x[i]); // other
}
