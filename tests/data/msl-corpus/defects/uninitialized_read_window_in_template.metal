// A moving sum reads past the values that the threads of this threadgroup have loaded.
// dispatch: { "kernel": "moving", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

template <uint N>
static float window(threadgroup const float *s, uint t) {
    float sum = 0.0f;
    for (uint j = 0; j < N; j++) {
        sum += s[t + j]; // expect: uninitialized_read offset=256 threadgroup=0,0,0
    }
    return sum;
}

kernel void moving(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint i [[thread_position_in_grid]],
                   uint t [[thread_index_in_threadgroup]]) {
    threadgroup float s[64 + 8];
    s[t] = in[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = window<8>(s, t);
}
