// A private array with a dynamic index: the loop of one thread runs over its end.
// dispatch: { "kernel": "histogram", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 512, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void histogram(device uint *out [[buffer(0)]],
                      device const uint *in [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
    uint counts[8] = {};
    for (uint n = 0; n < 4; n++) {
        counts[in[i] / 3 + n] += in[n]; // expect: out_of_bounds thread=15,0,0
    }
    out[i] = counts[i % 8];
}
