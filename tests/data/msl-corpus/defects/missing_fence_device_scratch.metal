// A scratch buffer in device memory needs mem_device; the barrier names threadgroup memory.
// dispatch: { "kernel": "shift", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512 },
//               { "index": 2, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void shift(device float *out [[buffer(0)]],
                  device float *scratch [[buffer(1)]],
                  device const float *in [[buffer(2)]],
                  uint i [[thread_position_in_grid]],
                  uint t [[thread_index_in_threadgroup]]) {
    scratch[i] = 2.0f * in[i]; // other
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = scratch[i - t + (t + 1) % 64]; // expect: missing_fence buffer=1 offset=4 threadgroup=0,0,0 thread=0,0,0
}
