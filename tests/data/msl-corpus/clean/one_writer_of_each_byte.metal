// Two lanes share a byte; one of them gets the other's nibble by a shuffle and writes for both.
// dispatch: { "kernel": "pack", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 32 }, { "index": 1, "bytes": 64, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void pack(device uchar *out [[buffer(0)]],
                 device const uchar *codes [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
    const ushort mine = codes[i] & 15;
    const ushort other = simd_shuffle_xor(mine, 1);
    if (i % 2 == 0) {
        out[i / 2] = uchar(mine | other << 4);
    }
}
