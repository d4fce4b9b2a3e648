// Two simdgroups each put a nibble into the same byte by reading and writing it whole.
// dispatch: { "kernel": "pack", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 32 }, { "index": 1, "bytes": 64, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void pack(device uchar *out [[buffer(0)]],
                 device const uchar *codes [[buffer(1)]],
                 uint t [[thread_index_in_threadgroup]]) {
    const uint shift = t < 32 ? 0 : 4;
    out[t % 32] |= uchar((codes[t] & 15) << shift); // expect: data_race buffer=0 offset=0 thread=32,0,0 // other
}
