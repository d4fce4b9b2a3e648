// Codes of rotated rows, one simdgroup a row: nearest centroids, the norms of blocks, packing by
// whole words.
//
// There is no search: a polynomial names one boundary next to the coordinate's cell, and that
// boundary decides.

constant constexpr uint BLOCK_LANES = 32 / NORMS_PER_POS; // lanes whose coordinates share a norm
constant constexpr float BLOCK_DIM = HEAD_DIM / NORMS_PER_POS; // those coordinates

// What codes of a width are chosen by.
struct Quantizer {
    constant const float *boundaries;
    constant const float *guess;
    uint bits;
};

// Index of the nearest centroid, ties to the lower index. The guess are the terms of
// src/codec/codebook/guess.rs: codes of up to four bits need only the first two.
inline uint nearest(float z, Quantizer by) {
    float u = saturate(z * by.guess[0] + 0.5f);
    // So large a float has no bits below the point: the sum is rounded to a whole number, whose
    // bits are the lowest of the float.
    float rounded = u * by.guess[1] + 12582912.0f;
    if (by.bits > 4) {
        float x = u - 0.5f;
        float s = x * x;
        float middle = float((1u << (by.bits - 1)) - 1u);
        float slope = by.guess[1] + s * (by.guess[2] + s * (by.guess[3] + s * by.guess[4]));
        rounded = x * slope + (12582912.0f + middle);
    }
    uint boundary = as_type<uint>(rounded) & ((1u << by.bits) - 1u);
    // The sign of the difference is set above the boundary, and not on it.
    return boundary + (as_type<uint>(by.boundaries[boundary] - z) >> 31);
}

inline void nearest_codes(
    thread const float (&x)[EPT], float scale, Quantizer by, threadgroup uchar *codes) {
    for (uint i = 0; i < EPT; i++) {
        codes[i] = uchar(nearest(x[i] * scale, by));
    }
}

// Sum of the squares of this lane's block. Every lane takes part in every sum.
inline float block_sum(float squares, uint block) {
    float sum = simd_sum(block == 0 ? squares : 0.0f);
    if (NORMS_PER_POS == 2) {
        float upper = simd_sum(block == 1 ? squares : 0.0f);
        sum = block == 0 ? sum : upper;
    }
    return sum;
}

inline float squares_of(thread const float (&x)[EPT]) {
    float squares = 0.0f;
    for (uint i = 0; i < EPT; i++) {
        squares += x[i] * x[i];
    }
    return squares;
}

// Squares of the centroids of a lane's codes.
inline float decoded_squares(threadgroup const uchar *codes, constant const float *levels) {
    float squares = 0.0f;
    for (uint i = 0; i < EPT; i++) {
        float level = levels[codes[i]];
        squares += level * level;
    }
    return squares;
}

// The norm of a block whose squares add up to `sum`.
inline float block_norm(float sum) {
    return precise::sqrt(NORMS_PER_POS == 2 ? sum / BLOCK_DIM : sum);
}

// Factor from a rotated coordinate to the codebook's scale.
inline float encode_scale(float norm, float scale_factor_d512) {
    float scale = NORMS_PER_POS == 2 ? scale_factor_d512 : SQRT_HEAD_DIM;
    return norm <= ZERO_NORM ? 0.0f : scale / norm;
}

// The norm with which a block, whose centroids' squares add up to `sum`, is as long as it was.
inline float corrected_norm(float norm, float sum, float scale_factor_d512) {
    return norm / precise::sqrt(sum / BLOCK_DIM) * (NORMS_PER_POS == 2 ? scale_factor_d512 : 1.0f);
}

// Word w of a row: its codes as a stream, first coordinate in the lowest bits.
inline uint packed_word(threadgroup const uchar *codes, uint w, uint bits) {
    uint first = 32 * w / bits;
    uint word = uint(codes[first]) >> (32 * w % bits);
    for (uint c = first + 1; c * bits < 32 * (w + 1); c++) {
        word |= uint(codes[c]) << (c * bits - 32 * w);
    }
    return word;
}

// Slot of a token. In a sliding run longer than the cache, the newest token of a slot wins:
// `left` tokens, this one included, follow from here.
inline uint slot_of(uint token, uint write_pos, uint cache_capacity, uint is_sliding) {
    if (is_sliding != 0) {
        return (write_pos + token % cache_capacity) % cache_capacity;
    }
    return write_pos + token;
}
inline bool overwritten(uint left, uint cache_capacity, uint is_sliding) {
    return is_sliding != 0 && left > cache_capacity;
}
