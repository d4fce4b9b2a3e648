// Rows of the output are 12 wide, the grid is 16: the ends of a row fall on the next one.
// dispatch: { "kernel": "checker", "threadgroups": [2, 1, 1], "threads": [8, 8, 1],
//   "buffers": [{ "index": 0, "bytes": 400 }] }
#include <metal_stdlib>
using namespace metal;

constant uint PITCH = 12;

kernel void checker(device float *out [[buffer(0)]], uint2 p [[thread_position_in_grid]]) {
    out[p.y * PITCH + p.x] = float((p.x + p.y) & 1); // expect: data_race buffer=0 offset=48 threadgroup=1,0,0 thread=4,0,0 // other
}
