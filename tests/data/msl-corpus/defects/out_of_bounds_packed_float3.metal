// The last point of every threadgroup takes its successor, which the last group does not have.
// dispatch: { "kernel": "edges", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 768, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void edges(device float *out [[buffer(0)]],
                  device const packed_float3 *points [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
    const float3 from = points[i];
    const float3 to = points[i + 1]; // expect: out_of_bounds buffer=1 offset=768 threadgroup=1,0,0 thread=31,0,0
    out[i] = distance(from, to);
}
