// 13 floats are 52 bytes: the 14th lies in the slack before the next 16-byte boundary.
// dispatch: { "kernel": "copy", "threadgroups": [1, 1, 1], "threads": [14, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 56 }, { "index": 1, "bytes": 52, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void copy(device float *out [[buffer(0)]],
                 device const float *in [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
    out[i] = in[i]; // expect: out_of_bounds buffer=1 offset=52 thread=13,0,0
}
