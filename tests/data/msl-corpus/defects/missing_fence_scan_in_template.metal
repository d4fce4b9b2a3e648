// A scan in device memory, in the second threadgroup only, whose barriers order other memory.
// dispatch: { "kernel": "sums", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 4 }, { "index": 1, "bytes": 512, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

template <uint N>
static void scan(device float *x, uint t) {
    for (uint n = 1; n < N; n *= 2) {
        const float before = t >= n ? x[t - n] : 0.0f; // other
        threadgroup_barrier(mem_flags::mem_device);
        x[t] += before; // expect: missing_fence buffer=1 threadgroup=1,0,0
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

kernel void sums(device float *total [[buffer(0)]],
                 device float *x [[buffer(1)]],
                 uint t [[thread_index_in_threadgroup]],
                 uint group [[threadgroup_position_in_grid]]) {
    if (group == 1) {
        scan<64>(x + 64, t);
        if (t == 63) {
            total[0] = x[127];
        }
    }
}
