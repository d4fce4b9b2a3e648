// The input holds one value a thread and is read with stride 3.
// dispatch: { "kernel": "gather", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void gather(device float *a [[buffer(0)]],
                   device const float *b [[buffer(1)]],
                   uint i [[thread_position_in_grid]]) {
    a[i] = b[i * 3]; // expect: out_of_bounds buffer=1 offset=516 threadgroup=0,0,0 thread=43,0,0
}
