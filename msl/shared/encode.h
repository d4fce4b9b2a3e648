// Codes of rotated rows, one simdgroup a row: nearest centroids, the norms of blocks, packing by
// whole words.
//
// Boundaries are a binary tree, level by level: node 1 is the middle one, below node k are 2 k and
// 2 k + 1.

constant constexpr uint BLOCK_LANES = 32 / NORMS_PER_POS; // lanes whose coordinates share a norm
constant constexpr float BLOCK_DIM = HEAD_DIM / NORMS_PER_POS; // those coordinates

// Index of the nearest centroid, ties to the lower index.
inline uint nearest(float z, constant const float *tree, uint bits) {
    uint node = 1;
    for (uint level = 0; level < bits; level++) {
        node = 2 * node + (z > tree[node] ? 1u : 0u);
    }
    return node - (1u << bits);
}

inline void nearest_codes(
    thread const float (&x)[EPT],
    float scale,
    constant const float *tree,
    uint bits,
    threadgroup uchar *codes) {
    for (uint i = 0; i < EPT; i++) {
        codes[i] = uchar(nearest(x[i] * scale, tree, bits));
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
