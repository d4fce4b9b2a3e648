// Decode attention of one query token over packed K and V, in the rotated basis.
//
// Threadgroup (x, y): x = KV head and part of its query heads, y = split of the visible
// positions. All GROUP query heads share one read of K and V. See shared/attention.h for row
// groups; each handles ROWS positions at a time, and reads the next ones before it computes.
// Contract: src/kernels/flash_attn_vec_tq.rs. Oracle: src/oracle/flash_attn_vec_tq.rs.

constant constexpr uint K_LANE_BITS = COORDS * K_BITS;
constant constexpr uint V_LANE_BITS = COORDS * V_BITS;
constant constexpr uint K_WORDS = (K_LANE_BITS + 31u) / 32u; // words that hold a lane's codes of one row
constant constexpr uint V_WORDS = (V_LANE_BITS + 31u) / 32u;
constant constexpr uint K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
constant constexpr uint V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;
constant constexpr uint TILE = ROW_GROUPS * ROWS; // positions that a threadgroup handles at a time

constant constexpr float HIDDEN = -3.0e38f; // score of a row past the end: far under any running maximum

struct Params {
    uint n_heads;
    uint n_kv_heads;
    uint head_dim;
    uint kv_seq_len;
    uint kv_capacity;
    float scale;
    uint mask_type;
    uint sliding_window;
    float softcap;
    uint nwg;
    uint ring_start;
    float scale_factor_d512;
};
static_assert(sizeof(Params) == 48, "Params is the contract's block");

// What a lane reads of a tile.
struct Tile {
    uint k[ROWS][K_WORDS];
    uint v[ROWS][V_WORDS];
    Owned k_norms;
    Owned v_norms;
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

kernel void flash_attn_vec_tq(
    constant Params &params [[buffer(0)]],
    device const float4 *q [[buffer(1)]],      // [head][coord / 4], rotated
    device const uint *k_packed [[buffer(2)]], // [kv_head][slot][word]
    device const float *k_norms [[buffer(3)]], // [kv_head][slot][block]
    device const uint *v_packed [[buffer(4)]], // [kv_head][slot][word]
    device const float *v_norms [[buffer(5)]], // [kv_head][slot][block]
    device float *dst [[buffer(6)]],           // [head][coord], or partials
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint tid [[thread_index_in_threadgroup]],
    uint simd_lane [[thread_index_in_simdgroup]]) {
    threadgroup float codebook[CODEBOOK_LEN];
    threadgroup float4 merge_acc[ROW_GROUPS * MERGE_HEADS * HEAD_DIM / 4u];
    threadgroup float merge_max[ROW_GROUPS * GROUP_PAD];
    threadgroup float merge_factor[ROW_GROUPS * GROUP_PAD];
    threadgroup float merge_part[ROW_GROUPS * GROUP_PAD];
    threadgroup float merge_sum[ROW_GROUPS * SCORES];

    uint lane = tid % LANES;
    uint row_group = tid / LANES;
    uint kv_head = workgroup.x / GROUPS_PER_KV;
    uint first_head = kv_head * GQA + (workgroup.x % GROUPS_PER_KV) * GROUP;
    uint end_head = min(first_head + GROUP, (kv_head + 1u) * GQA);
    uint split = workgroup.y;
    Cache cache = {k_packed, k_norms, v_packed, v_norms, params.kv_capacity, params.ring_start};

    // The positions of this split: an equal contiguous part of the visible ones.
    uint first = first_visible(params.kv_seq_len, params.mask_type, params.sliding_window);
    uint span = (params.kv_seq_len - first + params.nwg - 1u) / params.nwg;
    uint begin = min(first + split * span, params.kv_seq_len);
    uint end = min(begin + span, params.kv_seq_len);

    // Phase 1: first tile and q to registers, codebook to threadgroup memory.
    Tile next = {};
    if (begin < end) {
        next = tile_at(cache, tid, begin, end, kv_head);
    }
    float4 query[GROUP * VECS];
    for (uint h = 0; h < GROUP; h++) {
        uint head = min(first_head + h, end_head - 1u);
        for (uint i = 0; i < VECS; i++) {
            query[h * VECS + i] = q[(head * HEAD_DIM + lane * COORDS) / 4u + i];
        }
    }
    codebook_fill(codebook, tid);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    float start = sum_start(exchange_fits(tid, simd_lane));
    float top[GROUP]; // running maximum, to within SLACK
    Owned owned_top;  // the same of the owned scores' heads
    Owned owned_sum;
    float4 acc[GROUP * VECS];
    for (uint h = 0; h < GROUP; h++) {
        top[h] = NO_SCORE;
        for (uint i = 0; i < VECS; i++) {
            acc[h * VECS + i] = float4(start);
        }
    }
    for (uint j = 0; j < OWNED; j++) {
        owned_top.x[j] = NO_SCORE;
        owned_sum.x[j] = start;
    }

    for (uint base = begin; base < end; base += TILE) {
        Tile tile = next;
        if (base + TILE < end) {
            next = tile_at(cache, tid, base + TILE, end, kv_head);
        }

        // Phase 2: scores. Each lane adds up its coordinates, owners the lanes.
        Scores scores = {};
        for (uint r = 0; r < ROWS; r++) {
            for (uint i = 0; i < VECS; i++) {
                uint bit = 4u * i * K_BITS;
                uint2 words = uint2(tile.k[r][bit / 32u], tile.k[r][min(bit / 32u + 1u, K_WORDS - 1u)]);
                float4 x = centroids(codebook, four_codes(words, bit % 32u, K_BITS), K_BITS, 0u);
                for (uint h = 0; h < GROUP; h++) {
                    uint v = r * GROUP_PAD + h;
                    scores.x[v] = dot_add(x, query[h * VECS + i], scores.x[v]);
                }
            }
        }
        Owned owned = block_sums(tid, scores);
        for (uint j = 0; j < OWNED; j++) {
            owned.x[j] *= decode_scale(tile.k_norms.x[j], params.scale_factor_d512) * params.scale;
        }
        owned = row_sums(owned);
        for (uint j = 0; j < OWNED; j++) {
            uint v = j * OWNERS + lane % OWNERS;
            bool visible = base + v / GROUP_PAD * ROW_GROUPS + row_group < end && v % GROUP_PAD < GROUP;
            owned.x[j] = visible ? soften(owned.x[j], params.softcap) : HIDDEN;
        }

        // Phase 3: running softmax; scores become weights, which take V's norm along.
        if (some_rise(owned, owned_top)) {
            Heads maxima = head_maxima(simd_lane, owned);
            for (uint h = 0; h < GROUP; h++) {
                float new_top = max(top[h], maxima.x[h]);
                float rescale = precise::exp(top[h] - new_top);
                top[h] = new_top;
                for (uint i = 0; i < VECS; i++) {
                    acc[h * VECS + i] *= rescale;
                }
                for (uint j = 0; j < OWNED; j++) {
                    if ((j * OWNERS + lane % OWNERS) % GROUP_PAD == h) {
                        owned_sum.x[j] *= rescale;
                        owned_top.x[j] = new_top;
                    }
                }
            }
        }
        for (uint j = 0; j < OWNED; j++) {
            float weight = precise::exp(owned.x[j] - owned_top.x[j]);
            owned_sum.x[j] += weight;
            float kept = weight < WEIGHT_FLOOR ? 0.0f : weight;
            owned.x[j] = kept * decode_scale(tile.v_norms.x[j], params.scale_factor_d512);
        }

        // Phase 4: add the weighted V rows, with a floor only those that some query head keeps.
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
                    float4 x = centroids(codebook, four_codes(words, bit % 32u, V_BITS), V_BITS, V_BASE);
                    for (uint h = 0; h < GROUP; h++) {
                        acc[h * VECS + i] = fma(float4(weights[h]), x, acc[h * VECS + i]);
                    }
                }
            }
        }
    }

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time, and store.
    Merge merge = {merge_max, merge_sum, merge_acc, merge_factor, merge_part, ROWS};
    Place place = {split, params.n_heads, params.nwg};
    if (lane < OWNERS) {
        for (uint j = 0; j < OWNED; j++) {
            merge_sum[row_group * SCORES + j * OWNERS + lane] = owned_sum.x[j];
        }
    }
    if (lane == 0u) {
        for (uint h = 0; h < GROUP; h++) {
            merge_max[row_group * GROUP_PAD + h] = top[h];
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    merge_weigh(merge, tid);
    for (uint batch = 0; batch < GROUP; batch += MERGE_HEADS) {
        if (batch > 0u) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        for (uint h = batch; h < min(batch + MERGE_HEADS, GROUP); h++) {
            for (uint i = 0; i < VECS; i++) {
                uint at = (row_group * MERGE_HEADS + h - batch) * HEAD_DIM + lane * COORDS;
                merge_acc[at / 4u + i] = acc[h * VECS + i];
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        uint heads = min(MERGE_HEADS, max(end_head, first_head + batch) - first_head - batch);
        for (uint x = tid; x < heads * (HEAD_DIM / 4u); x += WORKGROUP_SIZE) {
            uint nth = x / (HEAD_DIM / 4u);
            store(dst, merge, place, first_head, batch + nth, nth, x % (HEAD_DIM / 4u));
        }
    }
}
