// Pairs of halves are stored from the second element on.
// dispatch: { "kernel": "pairs", "threadgroups": [1, 1, 1], "threads": [16, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 66 }] }
#include <metal_stdlib>
using namespace metal;

kernel void pairs(device half *out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    device half2 *from_second = (device half2 *)(out + 1);
    from_second[i] = half2(half(i), 1.0h); // expect: misaligned buffer=0 offset=2 thread=0,0,0
}
