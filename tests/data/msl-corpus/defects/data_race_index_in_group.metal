// The index in the threadgroup is used where the position in the grid belongs: every threadgroup
// writes the same 64 elements.
// dispatch: { "kernel": "copy", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void copy(device float *a [[buffer(0)]],
                 device const float *b [[buffer(1)]],
                 uint i [[thread_position_in_grid]],
                 uint t [[thread_index_in_threadgroup]]) {
    a[t] = b[i]; // expect: data_race buffer=0 offset=0 threadgroup=1,0,0 thread=0,0,0 // other
}
