// A simdgroup_barrier orders one simdgroup only; the partial sums cross simdgroups.
// dispatch: { "kernel": "reduce", "threadgroups": [1, 1, 1], "threads": [128, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 4 }, { "index": 1, "bytes": 512, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

kernel void reduce(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint t [[thread_index_in_threadgroup]],
                   uint lane [[thread_index_in_simdgroup]],
                   uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float partial[4];
    const float sum = simd_sum(in[t]);
    if (lane == 0) {
        partial[simdgroup] = sum; // other
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (t == 127) {
        out[0] = partial[0] + partial[1] + partial[2] + partial[3]; // expect: data_race offset=0 thread=127,0,0
    }
}
