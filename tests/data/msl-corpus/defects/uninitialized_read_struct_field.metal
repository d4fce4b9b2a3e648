// The running maximum is shared, its index is not: one field of the struct stays unwritten.
// dispatch: { "kernel": "arg_max", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 8 }, { "index": 1, "bytes": 128, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

struct Best {
    float value;
    uint index;
};

kernel void arg_max(device Best *out [[buffer(0)]],
                    device const float *in [[buffer(1)]],
                    uint t [[thread_index_in_threadgroup]]) {
    threadgroup Best best;
    const float top = simd_max(in[t]);
    if (t == 0) {
        best.value = top;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (t == 31) {
        out->value = best.value;
        out->index = best.index; // expect: uninitialized_read offset=4 thread=31,0,0
    }
}
