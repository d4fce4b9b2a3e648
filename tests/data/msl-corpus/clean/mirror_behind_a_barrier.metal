// The mirrored element is another simdgroup's, behind the right barrier.
// dispatch: { "kernel": "reverse", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void reverse(device float *a [[buffer(0)]],
                    device const float *b [[buffer(1)]],
                    uint i [[thread_position_in_grid]],
                    uint t [[thread_index_in_threadgroup]]) {
    threadgroup float s[64];
    s[t] = b[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    a[i] = s[63 - t];
}
