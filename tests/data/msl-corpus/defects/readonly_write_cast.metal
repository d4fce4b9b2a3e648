// The const of an input is cast away.
// dispatch: { "kernel": "k", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void k(device const float *b [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    ((device float *)b)[i] = 1.0f; // expect: readonly_write buffer=0 offset=0 thread=0,0,0
}
