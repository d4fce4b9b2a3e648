// Decodes packed rows by the codebooks, which sit in threadgroup memory: a look-up by a value that
// differs from lane to lane would be slow from constant memory.
// Call codebook_fill from every thread, then a barrier, before the first look-up.
//
// A row is a stream of codes, first coordinate in the lowest bits. Eight codes are BITS bytes: at
// every width they lie in two consecutive words, and four of them fit one word.

inline void codebook_fill(threadgroup float *codebook, uint tid) {
    for (uint i = tid; i < CODEBOOK_LEN; i += WORKGROUP_SIZE) {
        codebook[i] = CODEBOOK[i];
    }
}

// How far the second word of the eight codes that start at `bit` is from the first: 0 or 1.
inline uint second_word(uint bit, uint bits) {
    return bit % 32u + 8u * bits > 32u ? 1u : 0u;
}

// 32 bits from bit `at` of two words.
inline uint funnel(uint2 words, uint at) {
    uint shift = at % 32u;
    uint low = (words.x >> shift) | ((words.y << (31u - shift)) << 1u);
    return at >= 32u ? words.y >> shift : low;
}

// Four codes of `bits` bits from bit `at` of two words; what follows them is not cleared.
inline uint four_codes(uint2 words, uint at, uint bits) {
    if (32u % (4u * bits) == 0u) { // never in both words
        return (at >= 32u ? words.y : words.x) >> (at % 32u);
    }
    return funnel(words, at);
}

// `width` bits, `skip` after the first of four codes of `bits` bits that start at bit `at` of two words.
inline uint field(uint2 words, uint at, uint bits, uint skip, uint width) {
    uint mask = (1u << width) - 1u;
    if (32u % (4u * bits) == 0u) { // never in both words
        uint shift = at % 32u + skip;
        return ((at >= 32u ? words.y : words.x) & (mask << shift)) >> shift;
    }
    return (funnel(words, at) & (mask << skip)) >> skip;
}

// Centroids of the four codes of `bits` bits that start at bit `at` of two words, by the codebook of
// this width at `base`.
inline float4 centroids(threadgroup const float *codebook, uint2 words, uint at, uint bits, uint base) {
    return float4(
        codebook[base + field(words, at, bits, 0u, bits)],
        codebook[base + field(words, at, bits, bits, bits)],
        codebook[base + field(words, at, bits, 2u * bits, bits)],
        codebook[base + field(words, at, bits, 3u * bits, bits)]);
}

// Factor from a centroid to a rotated coordinate, given the norm of its block.
inline float decode_scale(float norm, float scale_factor_d512) {
    return NORMS_PER_POS == 1u ? norm * INV_SQRT_HEAD_DIM : norm / scale_factor_d512;
}
