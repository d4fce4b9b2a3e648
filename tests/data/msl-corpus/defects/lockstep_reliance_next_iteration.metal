// The scratch row is overwritten by the next iteration while slower lanes still read it.
// dispatch: { "kernel": "scores", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void scores(device float *out [[buffer(0)]],
                   device const float *in [[buffer(1)]],
                   uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float row[32];
    float sum = 0.0f;
    for (uint block = 0; block < 4; block++) {
        row[lane] = in[block * 32 + lane]; // expect: lockstep_reliance
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint k = 0; k < 32; k++) {
            sum += row[k]; // other
        }
    }
    out[lane] = sum;
}
