// The last 32 sums of a tree are added without barriers, as older CUDA code does.
// dispatch: { "kernel": "reduce", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 4 }, { "index": 1, "bytes": 256, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

kernel void reduce(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint t [[thread_index_in_threadgroup]]) {
    threadgroup float s[64];
    s[t] = in[t];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (t < 32) {
        for (uint distance = 32; distance > 0; distance /= 2) {
            s[t] += s[t + distance]; // expect: lockstep_reliance // other
        }
    }
    if (t == 0) {
        out[0] = s[0];
    }
}
