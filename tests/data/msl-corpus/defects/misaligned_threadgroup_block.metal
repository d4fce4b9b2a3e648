// Two arrays share one block of threadgroup memory; the second starts behind an odd number of halves.
// dispatch: { "kernel": "share", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "threadgroup_memory": [{ "index": 0, "bytes": 256 }],
//   "buffers": [{ "index": 0, "bytes": 128, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void share(device float *x [[buffer(0)]],
                  threadgroup half *block [[threadgroup(0)]],
                  uint t [[thread_index_in_threadgroup]]) {
    threadgroup float *sums = (threadgroup float *)(block + 33);
    sums[t] = x[t]; // expect: misaligned offset=66 thread=0,0,0
    threadgroup_barrier(mem_flags::mem_threadgroup);
    x[t] = float(block[33 + t]);
}
