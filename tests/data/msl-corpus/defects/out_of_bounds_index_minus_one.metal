// The left neighbour of element 0: the unsigned index wraps and lands 16 GiB away.
// dispatch: { "kernel": "difference", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void difference(device float *out [[buffer(0)]],
                       device const float *in [[buffer(1)]],
                       uint i [[thread_position_in_grid]]) {
    out[i] = in[i] - in[i - 1]; // expect: out_of_bounds buffer=1 offset=17179869180 thread=0,0,0
}
