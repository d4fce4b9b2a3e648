// A helper writes half a threadgroup further than its caller has room for.
// dispatch: { "kernel": "k", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }] }
#include <metal_stdlib>
using namespace metal;

inline void poke(device float *p, uint i) {
    p[i + 64] = 0.0f; // expect: out_of_bounds buffer=0 offset=512 threadgroup=1,0,0 thread=0,0,0
}

kernel void k(device float *a [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    poke(a, i);
}
