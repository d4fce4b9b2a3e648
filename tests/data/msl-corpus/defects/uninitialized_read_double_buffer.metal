// The first step fills half 1 of the double buffer and reads half 0.
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
        const uint fill = (step + 1) % 2;
        const uint drain = step % 2;
        halves[fill * 64 + t] = in[step * 64 + t];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        sum += halves[drain * 64 + 63 - t]; // expect: uninitialized_read offset=0 thread=63,0,0
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    out[t] = sum;
}
