// Rows are 6 floats long, so every second row starts 8 bytes off the alignment of float4.
// dispatch: { "kernel": "heads", "threadgroups": [1, 1, 1], "threads": [8, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 192, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void heads(device float4 *out [[buffer(0)]],
                  device const float *rows [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
    out[i] = *(device const float4 *)(rows + i * 6); // expect: misaligned buffer=1 offset=24 thread=1,0,0
}
