// The caller gave 64 floats of threadgroup memory; the kernel uses two for each of 64 threads.
// dispatch: { "kernel": "swap_pairs", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "threadgroup_memory": [{ "index": 0, "bytes": 256 }],
//   "buffers": [{ "index": 0, "bytes": 1024, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void swap_pairs(device float2 *x [[buffer(0)]],
                       threadgroup float *scratch [[threadgroup(0)]],
                       uint i [[thread_position_in_grid]],
                       uint t [[thread_index_in_threadgroup]]) {
    scratch[2 * t] = x[i].y; // expect: out_of_bounds offset=256 threadgroup=0,0,0 thread=32,0,0
    scratch[2 * t + 1] = x[i].x;
    x[i] = float2(scratch[2 * t], scratch[2 * t + 1]);
}
