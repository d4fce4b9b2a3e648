// The buffer holds bfloat (2 bytes); a cast to float reads twice as far.
// dispatch: { "kernel": "widen", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 128 }] }
#include <metal_stdlib>
using namespace metal;

kernel void widen(device float *out [[buffer(0)]],
                  device const bfloat *in [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
    device const float *wrong = (device const float *)in;
    out[i] = wrong[i]; // expect: out_of_bounds buffer=1 offset=128 threadgroup=1,0,0 thread=0,0,0
}
