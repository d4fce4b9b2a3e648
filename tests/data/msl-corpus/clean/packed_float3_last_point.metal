// Packed points are 12 bytes; the last read ends with the buffer.
// dispatch: { "kernel": "lengths", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 768, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void lengths(device float *out [[buffer(0)]],
                    device const packed_float3 *points [[buffer(1)]],
                    uint i [[thread_position_in_grid]]) {
    out[i] = length(float3(points[i]));
}
