// A record is a tag byte and a word; the word is read in one piece behind the tag.
// dispatch: { "kernel": "decode", "threadgroups": [2, 1, 1], "threads": [16, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 160, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

static uint word_at(device const uchar *stream, uint offset) {
    return *reinterpret_cast<device const uint *>(stream + offset); // expect: misaligned buffer=1 offset=1
}

kernel void decode(device uint *out [[buffer(0)]],
                   device const uchar *stream [[buffer(1)]],
                   uint i [[thread_position_in_grid]]) {
    out[i] = word_at(stream, 5 * i + 1);
}
