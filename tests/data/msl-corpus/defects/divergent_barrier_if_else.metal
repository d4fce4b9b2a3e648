// Both branches have a barrier, but these are two different ones.
// dispatch: { "kernel": "split", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void split(device float *out [[buffer(0)]],
                  device const float *in [[buffer(1)]],
                  uint t [[thread_index_in_threadgroup]],
                  uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    if (simdgroup == 0) {
        out[t] = in[t];
        threadgroup_barrier(mem_flags::mem_device); // expect: divergent_barrier thread=0,0,0
    } else {
        out[t] = -in[t];
        threadgroup_barrier(mem_flags::mem_device); // other
    }
}
