// A union looks at the bits of four floats as words, and is copied as a whole.
// dispatch: { "kernel": "flip_signs", "threadgroups": [2, 1, 1], "threads": [16, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

union Bits {
    float4 values;
    uint4 words;
};

static Bits flipped(Bits bits) {
    bits.words ^= uint4(0x80000000u);
    return bits;
}

kernel void flip_signs(device float4 *x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    Bits bits;
    bits.values = x[i];
    x[i] = flipped(bits).values;
}
