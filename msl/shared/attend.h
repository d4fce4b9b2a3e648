// Attention of row groups over packed K and V: the phases of the loop over positions, for the
// entry points that have one.
//
// The entry point has the parameters, the buffers and the barriers; see shared/attention.h for row
// groups. Each handles ROWS positions at a time, a tile, and reads the next one before it computes.
// Weights are relative to the largest scores of the first tile, so that nothing in the loop rescales
// accumulators; where a later score is more than SLACK above, all is done in a second turn, relative to
// the largest scores of all.

constant constexpr uint K_LANE_BITS = COORDS * K_BITS;
constant constexpr uint V_LANE_BITS = COORDS * V_BITS;
constant constexpr uint K_WORDS = (K_LANE_BITS + 31u) / 32u; // words that hold a lane's codes of one row
constant constexpr uint V_WORDS = (V_LANE_BITS + 31u) / 32u;
constant constexpr uint K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
constant constexpr uint V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;
constant constexpr uint TILE = ROW_GROUPS * ROWS; // positions that a threadgroup handles at a time

constant constexpr float HIDDEN = -3.0e38f; // score of a row past the end: far under any maximum

// How far a score may be above what its weight is relative to: exp of it, times as many positions and
// values as there may be, is far from overflow, and few contexts have such a score.
constant constexpr float SLACK = 32.0f;

// What a lane reads of a tile.
struct Tile {
    uint k[ROWS][K_WORDS];
    uint v[ROWS][V_WORDS];
    Owned k_norms;
    Owned v_norms;
};

// What a lane carries from tile to tile.
struct Running {
    float top[GROUP];    // what weights are relative to: the maximum, to within SLACK
    Owned owned_top;     // the same of the owned scores' heads
    Owned owned_highest; // largest of the owned scores
    Owned owned_sum;
    float4 acc[GROUP * VECS];
};

// The cache as the kernel's arguments give it.
struct Cache {
    device const uint *k_packed;
    device const float *k_norms;
    device const uint *v_packed;
    device const float *v_norms;
    uint capacity;
    uint ring_start;
};

// A lane's codes of one row, first code in the lowest bits: read 16 or 8 bytes at a time where they
// are whole vectors of them.
template <uint WORDS, uint LANE_BITS, uint ROW_WORDS>
inline void words_at(device const uint *packed, uint row, uint lane, thread uint (&words)[WORDS]) {
    if (LANE_BITS % 128u == 0u) {
        device const uint4 *vectors = (device const uint4 *)packed + (row * LANES + lane) * (WORDS / 4u);
        for (uint i = 0; i < WORDS / 4u; i++) {
            uint4 four = vectors[i];
            for (uint j = 0; j < 4u; j++) {
                words[4u * i + j] = four[j];
            }
        }
        return;
    }
    if (LANE_BITS % 64u == 0u) {
        device const uint2 *pairs = (device const uint2 *)packed + (row * LANES + lane) * (WORDS / 2u);
        for (uint i = 0; i < WORDS / 2u; i++) {
            uint2 two = pairs[i];
            words[2u * i] = two.x;
            words[2u * i + 1u] = two.y;
        }
        return;
    }
    uint bit = lane * LANE_BITS;
    uint first = row * ROW_WORDS + bit / 32u;
    uint last = row * ROW_WORDS + (bit + LANE_BITS - 1u) / 32u;
    for (uint i = 0; i < WORDS; i++) {
        words[i] = packed[first + i];
        if (LANE_BITS % 32u != 0u) {
            words[i] = funnel(uint2(words[i], packed[min(first + i + 1u, last)]), bit % 32u);
        }
    }
}

// Row of K and V of a position; rows past the end repeat the last one.
inline uint row_at(Cache cache, uint position, uint end, uint kv_head) {
    uint slot = ring_slot(min(position, end - 1u), cache.ring_start, cache.capacity);
    return kv_head * cache.capacity + slot;
}

// Reads the tile at `base`, of positions before `end`, which is above 0.
inline Tile tile_at(Cache cache, uint tid, uint base, uint end, uint kv_head) {
    uint lane = tid % LANES;
    uint first = base + tid / LANES;
    Tile tile;
    for (uint r = 0; r < ROWS; r++) {
        uint row = row_at(cache, first + r * ROW_GROUPS, end, kv_head);
        words_at<K_WORDS, K_LANE_BITS, K_ROW_WORDS>(cache.k_packed, row, lane, tile.k[r]);
        words_at<V_WORDS, V_LANE_BITS, V_ROW_WORDS>(cache.v_packed, row, lane, tile.v[r]);
    }
    for (uint j = 0; j < OWNED; j++) {
        uint r = (j * OWNERS + lane % OWNERS) / GROUP_PAD;
        uint row = row_at(cache, first + r * ROW_GROUPS, end, kv_head);
        tile.k_norms.x[j] = cache.k_norms[row * NORMS_PER_POS + lane / BLOCK_LANES];
        tile.v_norms.x[j] = cache.v_norms[row * NORMS_PER_POS + lane / BLOCK_LANES];
    }
    return tile;
}

// Adds the dot product of a and b to sum.
inline float dot_add(float4 a, float4 b, float sum) {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// Before the first tile; `start` is what sums start from.
inline Running nothing_seen(float start) {
    Running running;
    for (uint h = 0; h < GROUP; h++) {
        running.top[h] = NO_SCORE;
        for (uint i = 0; i < VECS; i++) {
            running.acc[h * VECS + i] = float4(start);
        }
    }
    for (uint j = 0; j < OWNED; j++) {
        running.owned_top.x[j] = NO_SCORE;
        running.owned_highest.x[j] = NO_SCORE;
        running.owned_sum.x[j] = start;
    }
    return running;
}

// A lane's own part of the scores, by its coordinates.
inline Scores lane_scores(threadgroup const float *codebook, thread const Tile &tile, thread const float4 (&query)[GROUP * VECS]) {
    Scores scores = {};
    for (uint r = 0; r < ROWS; r++) {
        for (uint i = 0; i < VECS; i++) {
            uint bit = 4u * i * K_BITS;
            uint2 words = uint2(tile.k[r][bit / 32u], tile.k[r][min(bit / 32u + 1u, K_WORDS - 1u)]);
            float4 x = centroids(codebook, words, bit % 32u, K_BITS, 0u);
            for (uint h = 0; h < GROUP; h++) {
                uint v = r * GROUP_PAD + h;
                scores.x[v] = dot_add(x, query[h * VECS + i], scores.x[v]);
            }
        }
    }
    return scores;
}

// Owned sums over a block of coordinates, times the block's norm and the scale.
inline Owned scaled_sums(thread const Tile &tile, Owned owned, float scale, float scale_factor_d512) {
    for (uint j = 0; j < OWNED; j++) {
        owned.x[j] *= decode_scale(tile.k_norms.x[j], scale_factor_d512) * scale;
    }
    return owned;
}

// Owned scores of the tile at `base` after the softcap, HIDDEN where there is no such score.
inline Owned visible_scores(uint tid, uint base, uint end, Owned owned, float softcap) {
    if (softcap > 0.0f) { // one branch a tile, not one a score
        for (uint j = 0; j < OWNED; j++) {
            owned.x[j] = soften(owned.x[j], softcap);
        }
    }
    for (uint j = 0; j < OWNED; j++) {
        uint v = j * OWNERS + tid % LANES % OWNERS;
        bool visible = base + v / GROUP_PAD * ROW_GROUPS + tid / LANES < end && v % GROUP_PAD < GROUP;
        owned.x[j] = visible ? owned.x[j] : HIDDEN;
    }
    return owned;
}

// Makes weights relative to the largest of these scores and of those of the row groups that join this one.
inline void set_top(uint tid, uint simd_lane, Owned owned, thread Running &running) {
    Heads maxima = head_maxima(simd_lane, owned);
    for (uint h = 0; h < GROUP; h++) {
        running.top[h] = max(NO_SCORE, join_max(maxima.x[h]));
        for (uint j = 0; j < OWNED; j++) {
            if ((j * OWNERS + tid % LANES % OWNERS) % GROUP_PAD == h) {
                running.owned_top.x[j] = running.top[h];
            }
        }
    }
}

// Whether an owned score of the simdgroup was more than SLACK above what its weight is relative to.
inline bool some_rise(thread const Running &running) {
    bool rises = false;
    for (uint j = 0; j < OWNED; j++) {
        rises = rises || running.owned_highest.x[j] > running.owned_top.x[j] + SLACK;
    }
    return simd_any(rises);
}

// Weights of the owned scores, added to their sums; they take V's norm along.
inline Owned weigh(thread const Tile &tile, Owned owned, thread Running &running, float scale_factor_d512) {
    for (uint j = 0; j < OWNED; j++) {
        running.owned_highest.x[j] = max(running.owned_highest.x[j], owned.x[j]);
        float weight = precise::exp(owned.x[j] - running.owned_top.x[j]);
        running.owned_sum.x[j] += weight;
        float kept = weight < WEIGHT_FLOOR ? 0.0f : weight;
        owned.x[j] = kept * decode_scale(tile.v_norms.x[j], scale_factor_d512);
    }
    return owned;
}

// Adds the weighted V rows, with a floor only those that some query head keeps.
inline void add_rows(threadgroup const float *codebook, uint simd_lane, thread const Tile &tile, Owned owned, thread Running &running) {
    for (uint r = 0; r < ROWS; r++) {
        float weights[GROUP];
        bool kept = WEIGHT_FLOOR == 0.0f;
        for (uint h = 0; h < GROUP; h++) {
            weights[h] = score_get(simd_lane, owned, r * GROUP_PAD + h);
            kept = kept || weights[h] != 0.0f;
        }
        if (kept) {
            for (uint i = 0; i < VECS; i++) {
                uint bit = 4u * i * V_BITS;
                uint2 words = uint2(tile.v[r][bit / 32u], tile.v[r][min(bit / 32u + 1u, V_WORDS - 1u)]);
                float4 x = centroids(codebook, words, bit % 32u, V_BITS, V_BASE);
                for (uint h = 0; h < GROUP; h++) {
                    running.acc[h * VECS + i] = fma(float4(weights[h]), x, running.acc[h * VECS + i]);
                }
            }
        }
    }
}

// Makes one of every JOINED row groups that follow each other in a simdgroup, whose weights are relative to
// the same. Each lane then has its sums of all of them, and of its accumulators those that merge_put_acc
// hands over, in front.
inline void join(uint tid, thread Running &running) {
    if (JOINED == 1u) {
        return;
    }
    for (uint j = 0; j < OWNED; j++) {
        running.owned_sum.x[j] = join_sum(running.owned_sum.x[j]);
    }
    // A lane keeps every other vector and gives the rest to its partner: each step halves the work.
    for (ushort step = 1; step < JOINED; step <<= 1) {
        for (uint j = 0; j < GROUP * VECS / (2u * step); j++) {
            running.acc[j] = join_half(tid, running.acc[2u * j], running.acc[2u * j + 1u], step);
        }
    }
}

// Hands the maxima and sums of a row group, or of those that have become one, to the merge.
inline void merge_put(Merge merge, uint tid, thread const Running &running) {
    uint lane = tid % LANES;
    uint group = tid / LANES / JOINED;
    if (tid / LANES % JOINED != 0u) {
        return;
    }
    if (lane < OWNERS) {
        for (uint j = 0; j < OWNED; j++) {
            merge.sum[group * SCORES + j * OWNERS + lane] = running.owned_sum.x[j];
        }
    }
    if (lane == 0u) {
        for (uint h = 0; h < GROUP; h++) {
            merge.top[group * GROUP_PAD + h] = running.top[h];
        }
    }
}

// Hands a lane's accumulators of query head h, the `nth` of its batch, to the merge: of the vectors of
// its coordinates every JOINED-th, from the number of its row group among those that have become one.
inline void merge_put_acc(Merge merge, uint tid, uint h, uint nth, thread const Running &running) {
    uint group = tid / LANES / JOINED;
    uint first = ((group * MERGE_HEADS + nth) * HEAD_DIM + tid % LANES * COORDS) / 4u + tid / LANES % JOINED;
    for (uint i = 0; i < VECS / JOINED; i++) {
        merge.acc[first + i * JOINED] = running.acc[h * (VECS / JOINED) + i];
    }
}
