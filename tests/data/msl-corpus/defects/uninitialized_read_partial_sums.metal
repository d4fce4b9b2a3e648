// Two simdgroups leave two partial sums; the last step adds up 32.
// dispatch: { "kernel": "reduce", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 4 }, { "index": 1, "bytes": 256, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

kernel void reduce(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint t [[thread_index_in_threadgroup]],
                   uint lane [[thread_index_in_simdgroup]],
                   uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float partial[32];
    const float sum = simd_sum(in[t]);
    if (lane == 0) {
        partial[simdgroup] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup == 0) {
        const float all = simd_sum(partial[lane]); // expect: uninitialized_read offset=8 thread=2,0,0
        if (lane == 0) {
            out[0] = all;
        }
    }
}
