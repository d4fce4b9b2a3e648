// Fast Walsh-Hadamard transform of one row, natural order, one simdgroup a row.
//
// A lane owns EPT contiguous coordinates. The narrow stages run in registers, the wide ones
// between lanes by shuffles; no threadgroup memory and no barrier.

constant constexpr uint EPT = HEAD_DIM / ROW_THREADS; // coordinates of a lane: 2, 4, 8 or 16

inline void butterflies(thread float (&x)[EPT], uint lane) {
    // Strides 1, 2 .. EPT / 2: within the lane.
    for (uint h = 1; h < EPT; h <<= 1) {
        for (uint i = 0; i < EPT; i++) {
            if ((i & h) == 0) {
                float a = x[i];
                float b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
        }
    }
    // Strides EPT, 2 EPT .. HEAD_DIM / 2: between lanes.
    for (ushort mask = 1; mask < 32; mask <<= 1) {
        for (uint i = 0; i < EPT; i++) {
            float other = simd_shuffle_xor(x[i], mask);
            x[i] = (lane & mask) != 0 ? other - x[i] : x[i] + other;
        }
    }
}

// 1 / sqrt(HEAD_DIM), or NaN where a simdgroup does not have the 32 lanes of a row.
inline float normaliser(uint lane) {
    bool fits = simd_shuffle_xor(lane, ushort(16)) == (lane ^ 16u);
    return fits ? INV_SQRT_HEAD_DIM : as_type<float>(0x7fc00000u);
}

// The rotation's sign of coordinate c, +1 or -1.
inline float sign_of(uint c) {
    return 1.0f - 2.0f * float((SIGN_WORDS[c / 32] >> (c % 32)) & 1u);
}

// Multiplies coordinates first .. first + EPT - 1 by their signs.
inline void apply_signs(thread float (&x)[EPT], uint first) {
    for (uint i = 0; i < EPT; i++) {
        x[i] *= sign_of(first + i);
    }
}
