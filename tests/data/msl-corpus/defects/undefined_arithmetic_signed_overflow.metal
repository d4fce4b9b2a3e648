// A hash in signed arithmetic: the product soon leaves the range of int.
// dispatch: { "kernel": "hash", "threadgroups": [2, 1, 1], "threads": [16, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 128, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void hash(device int *out [[buffer(0)]],
                 device const int *in [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
    int h = 17;
    for (int k = 0; k < 4; k++) {
        h = 16777619 * h; // expect: undefined_arithmetic thread=0,0,0
    }
    out[i] = h ^ in[i];
}
