// mem_none lets threads meet and orders no memory at all.
// dispatch: { "kernel": "transpose", "threadgroups": [1, 1, 1], "threads": [8, 8, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void transpose(device float *out [[buffer(0)]],
                      device const float *in [[buffer(1)]],
                      uint2 p [[thread_position_in_threadgroup]]) {
    threadgroup float tile[8][9];
    tile[p.y][p.x] = in[p.y * 8 + p.x]; // other
    threadgroup_barrier(mem_flags::mem_none);
    out[p.y * 8 + p.x] = tile[p.x][p.y]; // expect: missing_fence
}
