// Decodes packed words by the codebook, which sits in threadgroup memory: a look-up by a value
// that differs from lane to lane would be slow from constant memory.
// Call codebook_fill from every thread, then a barrier, before the first look-up.

constant constexpr uint LEVELS = 1u << BITS;
constant constexpr uint CODES_PER_WORD = 32u / BITS;

inline void codebook_fill(threadgroup float *codebook, uint tid) {
    for (uint i = tid; i < LEVELS; i += WORKGROUP_SIZE) {
        codebook[i] = CODEBOOK[i];
    }
}

inline float centroid(threadgroup const float *codebook, uint word, uint i) {
    return codebook[(word >> (i * BITS)) & (LEVELS - 1u)];
}

// Centroids of coordinates 4 half_word .. 4 half_word + 3 of a word of eight 4-bit codes.
inline float4 centroids(threadgroup const float *codebook, uint word, uint half_word) {
    uint codes = word >> (half_word * 16u);
    return float4(
        centroid(codebook, codes, 0u),
        centroid(codebook, codes, 1u),
        centroid(codebook, codes, 2u),
        centroid(codebook, codes, 3u));
}

// Factor from a centroid to a rotated coordinate, given the norm of its block.
inline float decode_scale(float norm, float scale_factor_d512) {
    return NORMS_PER_POS == 1u ? norm * INV_SQRT_HEAD_DIM : norm / scale_factor_d512;
}
