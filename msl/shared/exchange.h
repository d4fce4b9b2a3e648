// How the LANES lanes of a row group exchange scores, by shuffles. Score v is of row v / GROUP_PAD
// and query head v % GROUP_PAD. The lanes that are v % OWNERS modulo OWNERS own it, as their
// owned score v / OWNERS. LANES * JOINED divides the simdgroup width of 32.

constant constexpr uint BLOCK_LANES = LANES / NORMS_PER_POS; // lanes whose coordinates share a norm
constant constexpr uint SCORES = ROWS * GROUP_PAD;           // of a row group in one tile
constant constexpr uint OWNERS = SCORES < BLOCK_LANES ? SCORES : BLOCK_LANES; // lanes that share them
constant constexpr uint OWNED = SCORES / OWNERS;             // scores of each
constant constexpr uint HEADS_OWNED = GROUP_PAD > OWNERS ? GROUP_PAD / OWNERS : 1u; // query heads of these

struct Scores { // [row][head], a lane's own part
    float x[SCORES];
};
struct Owned {
    float x[OWNED];
};
struct Heads {
    float x[GROUP_PAD];
};

// Whether the shuffles reach the lanes they mean.
inline bool exchange_fits(uint tid, uint simd_lane) {
    return row_sum_fits(tid) && simd_lane % (LANES * JOINED) == tid % (LANES * JOINED);
}

// Sums of the owned scores over the lanes of a block. A lane that still holds several scores keeps
// every other one and gives the rest to its partner, so that each step halves the work.
inline Owned block_sums(uint tid, Scores scores) {
    uint count = SCORES;
    for (ushort mask = 1; mask < OWNERS; mask <<= 1) {
        bool odd = (tid & mask) != 0u;
        count /= 2u;
        for (uint j = 0; j < count; j++) {
            float keep = odd ? scores.x[2u * j + 1u] : scores.x[2u * j];
            float give = odd ? scores.x[2u * j] : scores.x[2u * j + 1u];
            scores.x[j] = keep + simd_shuffle_xor(give, mask);
        }
    }
    Owned owned;
    for (uint j = 0; j < OWNED; j++) {
        owned.x[j] = scores.x[j];
        for (ushort mask = OWNERS; mask < BLOCK_LANES; mask <<= 1) {
            owned.x[j] += simd_shuffle_xor(owned.x[j], mask);
        }
    }
    return owned;
}

// Sums of the owned scores over the blocks.
inline Owned row_sums(Owned owned) {
    for (uint j = 0; j < OWNED; j++) {
        for (ushort mask = BLOCK_LANES; mask < LANES; mask <<= 1) {
            owned.x[j] += simd_shuffle_xor(owned.x[j], mask);
        }
    }
    return owned;
}

// Score or weight v, from the lane of the same block that owns it.
inline float score_get(uint simd_lane, Owned owned, uint v) {
    return simd_shuffle(owned.x[v / OWNERS], ushort(simd_lane / OWNERS * OWNERS + v % OWNERS));
}

// Largest score of each query head.
inline Heads head_maxima(uint simd_lane, Owned owned) {
    for (uint j = HEADS_OWNED; j < OWNED; j++) {
        owned.x[j % HEADS_OWNED] = max(owned.x[j % HEADS_OWNED], owned.x[j]);
    }
    for (uint j = 0; j < HEADS_OWNED; j++) {
        for (ushort mask = GROUP_PAD; mask < OWNERS; mask <<= 1) {
            owned.x[j] = max(owned.x[j], simd_shuffle_xor(owned.x[j], mask));
        }
    }
    Heads maxima;
    for (uint h = 0; h < GROUP; h++) {
        maxima.x[h] = score_get(simd_lane, owned, h);
    }
    return maxima;
}

// Maximum, and sum, over the JOINED row groups that become one.
inline float join_max(float x) {
    for (ushort step = 1; step < JOINED; step <<= 1) {
        x = max(x, simd_shuffle_xor(x, ushort(step * LANES)));
    }
    return x;
}
inline float join_sum(float x) {
    for (ushort step = 1; step < JOINED; step <<= 1) {
        x += simd_shuffle_xor(x, ushort(step * LANES));
    }
    return x;
}

// One of two vectors, with the partner's: the other one is the partner's to keep.
inline float4 join_half(uint tid, float4 even, float4 odd, ushort step) {
    bool is_odd = (tid & (step * LANES)) != 0u;
    return (is_odd ? odd : even) + simd_shuffle_xor(is_odd ? even : odd, ushort(step * LANES));
}
