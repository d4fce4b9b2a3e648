// The largest count that the type allows, and the mask that keeps a count below it.
// dispatch: { "kernel": "masks", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }] }
#include <metal_stdlib>
using namespace metal;

kernel void masks(device uint2 *out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    const uint bit = 1u << (t & 31u);
    const uint below = t % 32 == 0 ? 0u : 0xffffffffu >> (32 - t % 32);
    out[t] = uint2(bit, below) | uint2(1u) << uint2(31u, t % 32);
}
