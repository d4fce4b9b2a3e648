// A plain flag in threadgroup memory is set by one simdgroup and read by another.
// dispatch: { "kernel": "vote", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void vote(device uint *out [[buffer(0)]],
                 device const float *in [[buffer(1)]],
                 uint t [[thread_index_in_threadgroup]]) {
    threadgroup bool found;
    if (t == 0) {
        found = false;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (in[t] == 5.0f) {
        found = true; // other
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    out[t] = found ? 1u : 0u; // expect: data_race offset=0
}
