// Codes of a word, one too many: the last shift is by the whole width.
// dispatch: { "kernel": "codes", "threadgroups": [2, 1, 1], "threads": [16, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 128, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

template <uint Bits>
static uint sum_of_codes(uint word) {
    uint sum = 0;
    for (uint i = 0; i <= 32 / Bits; i++) {
        sum += (word >> (i * Bits)) & ((1u << Bits) - 1u); // expect: undefined_arithmetic thread=0,0,0
    }
    return sum;
}

kernel void codes(device uint *out [[buffer(0)]],
                  device const uint *in [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
    out[i] = sum_of_codes<4>(in[i]);
}
