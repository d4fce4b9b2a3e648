// A simd_sum between write and read makes the lanes meet and orders no memory.
// dispatch: { "kernel": "normalise", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 128, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

kernel void normalise(device float *out [[buffer(0)]],
                      device const float *in [[buffer(1)]],
                      uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float s[32];
    const float x = in[lane];
    s[lane] = x; // other
    const float norm = rsqrt(simd_sum(x * x));
    out[lane] = norm * s[31 - lane]; // expect: lockstep_reliance
}
