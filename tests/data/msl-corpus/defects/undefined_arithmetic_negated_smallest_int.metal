// Magnitudes by negation: the smallest int has none. The others are right.
// dispatch: { "kernel": "magnitudes", "threadgroups": [1, 1, 1], "threads": [4, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 16 },
//               { "index": 1, "bytes": 16, "init": { "u32": [1, 4294967295, 2147483649, 2147483648] } }] }
#include <metal_stdlib>
using namespace metal;

static int magnitude(int x) {
    return x < 0 ? -x : x; // expect: undefined_arithmetic thread=3,0,0
}

kernel void magnitudes(device int *out [[buffer(0)]],
                       device const int *in [[buffer(1)]],
                       uint i [[thread_position_in_grid]]) {
    out[i] = magnitude(in[i]);
}
