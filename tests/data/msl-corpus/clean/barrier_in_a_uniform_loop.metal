// Every thread passes the barrier three times.
// dispatch: { "kernel": "steps", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }] }
#include <metal_stdlib>
using namespace metal;

kernel void steps(device float *a [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    for (uint n = 0; n < 3; n++) {
        threadgroup_barrier(mem_flags::mem_device);
        a[i] += 1.0f;
    }
}
