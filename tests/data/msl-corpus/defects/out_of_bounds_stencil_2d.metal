// A vertical stencil on a 16 x 16 image reads a row below the last one.
// dispatch: { "kernel": "blur_rows", "threadgroups": [2, 2, 1], "threads": [8, 8, 1],
//   "buffers": [{ "index": 0, "bytes": 1024 }, { "index": 1, "bytes": 1024, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

constant uint WIDTH = 16;

kernel void blur_rows(device float *out [[buffer(0)]],
                      device const float *image [[buffer(1)]],
                      uint2 p [[thread_position_in_grid]]) {
    const uint above = (p.y == 0 ? 0 : p.y - 1) * WIDTH + p.x;
    const uint here = p.y * WIDTH + p.x;
    const uint below = (p.y + 1) * WIDTH + p.x;
    const float top = image[above] + image[here];
    const float bottom = image[below]; // expect: out_of_bounds buffer=1 offset=1024 threadgroup=0,1,0 thread=0,7,0
    out[here] = (top + bottom) / 3.0f;
}
