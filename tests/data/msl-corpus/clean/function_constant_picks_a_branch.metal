// The branch with the division by zero is not there when the constant says so.
// dispatch: { "kernel": "scale", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "function_constants": { "0": false, "1": 2.5 },
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 128, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

constant bool by_division [[function_constant(0)]];
constant float factor [[function_constant(1)]];

kernel void scale(device float *out [[buffer(0)]],
                  device const uint *in [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
    out[i] = by_division ? float(7 / in[i]) : factor * float(in[i]);
}
