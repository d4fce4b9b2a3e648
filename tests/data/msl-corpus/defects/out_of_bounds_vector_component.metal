// A float4 has components 0 to 3; the loop asks for a fifth.
// dispatch: { "kernel": "row_sums", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 512, "init": "ramp_f32" },
//               { "index": 2, "bytes": 4, "init": { "u32": [5] } }] }
#include <metal_stdlib>
using namespace metal;

kernel void row_sums(device float *out [[buffer(0)]],
                     device const float4 *rows [[buffer(1)]],
                     constant uint &columns [[buffer(2)]],
                     uint i [[thread_position_in_grid]]) {
    const float4 row = rows[i];
    float sum = 0.0f;
    for (uint c = 0; c < columns; c++) {
        sum += row[c]; // expect: out_of_bounds thread=0,0,0
    }
    out[i] = sum;
}
