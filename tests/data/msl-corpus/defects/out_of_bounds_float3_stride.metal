// Points are packed (12 bytes each), the kernel reads them as float3 (16 bytes each).
// dispatch: { "kernel": "lengths", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 384, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void lengths(device float *out [[buffer(0)]],
                    device const float3 *points [[buffer(1)]],
                    uint i [[thread_position_in_grid]]) {
    const float3 p = points[i]; // expect: out_of_bounds buffer=1 offset=384 thread=24,0,0
    out[i] = length(p);
}
