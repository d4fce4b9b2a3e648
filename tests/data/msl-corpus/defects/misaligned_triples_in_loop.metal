// Triples of ushort are copied as a pair and a single: every other pair is not aligned.
// dispatch: { "kernel": "copy", "threadgroups": [1, 1, 1], "threads": [4, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 96 }, { "index": 1, "bytes": 96 }] }
#include <metal_stdlib>
using namespace metal;

kernel void copy(device ushort *out [[buffer(0)]],
                 device const ushort *in [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
    for (uint j = 4 * i; j < 4 * i + 4; j++) {
        const ushort2 pair = *(device const ushort2 *)(in + 3 * j); // expect: misaligned buffer=1 offset=6 thread=0,0,0
        out[3 * j] = pair.x;
        out[3 * j + 1] = pair.y;
        out[3 * j + 2] = in[3 * j + 2];
    }
}
