// One element a thread: nothing is shared.
// dispatch: { "kernel": "copy", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void copy(device float *a [[buffer(0)]],
                 device const float *b [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
    a[i] = b[i];
}
