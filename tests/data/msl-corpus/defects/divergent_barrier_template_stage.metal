// Stages of a reduction end a barrier early in the threads that have nothing left to add.
// dispatch: { "kernel": "reduce", "threadgroups": [2, 1, 1], "threads": [128, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 8 }, { "index": 1, "bytes": 1024, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

template <uint N>
static void stage(threadgroup float *s, uint t) {
    for (uint n = N; n > 16; n /= 2) {
        if (t >= n) return;
        s[t] += s[t + n];
        threadgroup_barrier(mem_flags::mem_threadgroup); // expect: divergent_barrier thread=0,0,0
    }
}

kernel void reduce(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint i [[thread_position_in_grid]],
                   uint t [[thread_index_in_threadgroup]],
                   uint group [[threadgroup_position_in_grid]]) {
    threadgroup float s[128];
    s[t] = in[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    stage<64>(s, t);
    if (t == 0) {
        out[group] = s[0];
    }
}
