// A butterfly in device memory: from the stage that crosses simdgroups on, the flags are wrong.
// dispatch: { "kernel": "fwht", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

static void butterfly(device float *x, uint t, uint stride) {
    const uint low = t / stride * 2 * stride + t % stride;
    const float a = x[low]; // expect: missing_fence buffer=0
    const float b = x[low + stride]; // also: missing_fence
    x[low] = a + b; // other // also: missing_fence
    x[low + stride] = a - b; // other // also: missing_fence
}

kernel void fwht(device float *x [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    for (uint stride = 1; stride < 128; stride *= 2) {
        butterfly(x, t, stride);
        if (stride < 32) {
            threadgroup_barrier(mem_flags::mem_device);
        } else {
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
}
