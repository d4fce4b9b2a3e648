// Half the threads skip the work but not the barrier.
// dispatch: { "kernel": "fold", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

static float sum_of(threadgroup const float *s, uint t) {
    return t < 32 ? s[t] + s[t + 32] : 0.0f;
}

kernel void fold(device float *out [[buffer(0)]],
                 device const float *in [[buffer(1)]],
                 uint i [[thread_position_in_grid]],
                 uint t [[thread_index_in_threadgroup]],
                 uint group [[threadgroup_position_in_grid]]) {
    threadgroup float s[64];
    s[t] = in[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float sum = sum_of(s, t);
    if (t < 32) {
        out[group * 32 + t] = sum;
    }
}
