// One thread writes, the others wait at the barrier behind the branch.
// dispatch: { "kernel": "normalise", "threadgroups": [2, 1, 1], "threads": [96, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 768 }, { "index": 1, "bytes": 768, "init": "random_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void normalise(device float *out [[buffer(0)]],
                      device const float *in [[buffer(1)]],
                      uint i [[thread_position_in_grid]],
                      uint t [[thread_index_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]],
                      uint simdgroup [[simdgroup_index_in_threadgroup]],
                      uint simdgroups [[simdgroups_per_threadgroup]]) {
    threadgroup float partial[32];
    threadgroup float scale;
    const float x = in[i];
    const float sum = simd_sum(x * x);
    if (lane == 0) {
        partial[simdgroup] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (t == 0) {
        float all = 0.0f;
        for (uint s = 0; s < simdgroups; s++) {
            all += partial[s];
        }
        scale = rsqrt(all);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = scale * x;
}
