// One barrier a step is enough with two halves: whoever refills a half has passed a barrier that
// every reader of it had reached.
// dispatch: { "kernel": "stream", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "threadgroup_memory": [{ "index": 0, "bytes": 512 }],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 1024, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void stream(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   threadgroup float *halves [[threadgroup(0)]],
                   uint t [[thread_index_in_threadgroup]]) {
    float sum = 0.0f;
    for (uint step = 0; step < 4; step++) {
        threadgroup float *half_of_step = halves + step % 2 * 64;
        half_of_step[t] = in[step * 64 + t];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        sum += half_of_step[63 - t];
    }
    out[t] = sum;
}
