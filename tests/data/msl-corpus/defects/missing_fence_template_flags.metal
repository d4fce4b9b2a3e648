// The wrapper takes its flags as a template argument, and one caller gives the wrong one.
// dispatch: { "kernel": "broadcast", "threadgroups": [2, 1, 1], "threads": [96, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 768 }, { "index": 1, "bytes": 8, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

template <mem_flags FLAGS>
inline void meet() {
    threadgroup_barrier(FLAGS);
}

kernel void broadcast(device float *out [[buffer(0)]],
                      device const float *in [[buffer(1)]],
                      uint i [[thread_position_in_grid]],
                      uint t [[thread_index_in_threadgroup]],
                      uint group [[threadgroup_position_in_grid]]) {
    threadgroup float value;
    if (t == 0) {
        value = in[group]; // other
    }
    meet<mem_flags::mem_texture>();
    out[i] = value; // expect: missing_fence offset=0 thread=1,0,0
}
