// The number of rounds differs from thread to thread, and every round has a barrier.
// dispatch: { "kernel": "rounds", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }] }
#include <metal_stdlib>
using namespace metal;

kernel void rounds(device float *out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    float x = float(t);
    for (uint round = 0; round < 1 + t / 32; round++) {
        x *= 0.5f;
        threadgroup_barrier(mem_flags::mem_threadgroup); // expect: divergent_barrier thread=32,0,0
    }
    out[t] = x;
}
