// Unsigned arithmetic wraps by definition: (i + ring - 1) % ring, and a hash that overflows.
// dispatch: { "kernel": "ring", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void ring(device uint *out [[buffer(0)]],
                 device const uint *in [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
    const uint previous = (i - 1u) & 63u;
    out[i] = (in[previous] - 7u) * 2654435769u;
}
