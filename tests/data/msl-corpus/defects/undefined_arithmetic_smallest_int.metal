// The smallest int divided by -1 has no int as its result.
// dispatch: { "kernel": "ratio", "threadgroups": [1, 1, 1], "threads": [1, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 4 },
//               { "index": 1, "bytes": 8, "init": { "u32": [2147483648, 4294967295] } }] }
#include <metal_stdlib>
using namespace metal;

kernel void ratio(device int *out [[buffer(0)]], device const int *in [[buffer(1)]]) {
    out[0] = in[0] / in[1]; // expect: undefined_arithmetic thread=0,0,0
}
