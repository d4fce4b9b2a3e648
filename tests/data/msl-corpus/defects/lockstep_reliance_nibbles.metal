// Neighbouring lanes put their nibbles into one byte, each by reading and writing it whole.
// dispatch: { "kernel": "pack", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 16 }, { "index": 1, "bytes": 32, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void pack(device uchar *out [[buffer(0)]],
                 device const uchar *codes [[buffer(1)]],
                 uint lane [[thread_index_in_simdgroup]]) {
    out[lane / 2] |= uchar((codes[lane] & 15) << (lane % 2 * 4)); // expect: lockstep_reliance buffer=0 offset=0 thread=1,0,0 // other
}
