// The tile of the second threadgroup is filled up to n only, and all of it is summed.
// dispatch: { "kernel": "sum_tiles", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 160, "init": "ramp_f32" },
//               { "index": 2, "bytes": 4, "init": { "u32": [40] } }] }
#include <metal_stdlib>
using namespace metal;

kernel void sum_tiles(device float *out [[buffer(0)]],
                      device const float *in [[buffer(1)]],
                      constant uint &n [[buffer(2)]],
                      uint i [[thread_position_in_grid]],
                      uint t [[thread_index_in_threadgroup]]) {
    threadgroup half tile[32];
    if (i < n) {
        tile[t] = half(in[i]);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    half sum = 0.0h;
    for (uint k = 0; k < 32; k++) {
        sum += tile[(t + k) % 32]; // expect: uninitialized_read threadgroup=1,0,0
    }
    out[i] = float(sum);
}
