// Threads of one threadgroup exchange through device memory, with mem_device.
// dispatch: { "kernel": "shift", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void shift(device float *x [[buffer(0)]],
                  uint i [[thread_position_in_grid]],
                  uint t [[thread_index_in_threadgroup]]) {
    const float next = x[i - t + (t + 1) % 64];
    threadgroup_barrier(mem_flags::mem_device);
    x[i] = next;
}
