// A helper with a barrier is called for some rows of a 2-D threadgroup only.
// dispatch: { "kernel": "rows", "threadgroups": [2, 2, 1], "threads": [8, 8, 1],
//   "buffers": [{ "index": 0, "bytes": 1024, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

static float share(threadgroup float *s, uint t, float x) {
    s[t] = x;
    threadgroup_barrier(mem_flags::mem_threadgroup); // expect: divergent_barrier threadgroup=0,1,0
    return s[t];
}

kernel void rows(device float *x [[buffer(0)]],
                 uint2 p [[thread_position_in_grid]],
                 uint t [[thread_index_in_threadgroup]]) {
    threadgroup float s[64];
    if (p.y < 12) {
        x[p.y * 16 + p.x] += share(s, t, x[p.y * 16 + p.x]);
    }
}
