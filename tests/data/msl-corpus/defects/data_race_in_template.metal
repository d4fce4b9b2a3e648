// Pairs of threads write one element: the template divides the index.
// dispatch: { "kernel": "k", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

template <int N>
inline void put(device float *p, uint i, float x) {
    p[i % N] = x; // expect: data_race buffer=0 offset=0 thread=32,0,0 // other
}

kernel void k(device float *a [[buffer(0)]],
              device const float *b [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {
    put<32>(a, i, b[i]);
}
