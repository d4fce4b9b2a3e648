// Attention of several query tokens of several sequences over a paged cache, packed or dense, with the
// products on simdgroup matrices: q, K, V and the weights in f16, sums in f32.
//
// A query is one query head of one token. Threadgroup (x, y, z): x = tile of QUERIES queries that
// share a KV head, y = KV head and split of the positions, z = sequence. K and V are rounded to f16 in
// threadgroup memory, BLOCK positions at a time, so that a row is decoded once for the whole tile. A
// simdgroup owns SUBGROUP_COORDS coordinates of GROUP_QUERIES queries; the simdgroups of a query group
// share its queries. The norms of packed rows stay out of the products: a score is scaled by K's, a
// weight takes V's along.
// Contract: src/kernels/flash_attn_mat_tile.rs. Oracle: src/oracle/flash_attn_mat_tile.rs.

constant constexpr uint SIDE = 8u; // rows and columns of a matrix
constant constexpr uint SUBGROUP = 32u;
constant constexpr uint SUBGROUPS = WORKGROUP_SIZE / SUBGROUP;
constant constexpr uint SUBGROUP_COORDS = HEAD_DIM < 128u ? HEAD_DIM : 128u;
constant constexpr uint ROW_SUBGROUPS = HEAD_DIM / SUBGROUP_COORDS; // simdgroups that share a query
constant constexpr uint GROUP_QUERIES = 16u;
constant constexpr uint QUERIES = SUBGROUPS / ROW_SUBGROUPS * GROUP_QUERIES;
constant constexpr uint ROWS = GROUP_QUERIES / SIDE;       // matrices that hold the queries of a group
constant constexpr uint COLUMNS = BLOCK / SIDE;            // and the positions of a block
constant constexpr uint MATRICES = SUBGROUP_COORDS / SIDE; // and the coordinates of a simdgroup
constant constexpr uint OCTETS = HEAD_DIM / 8u;
constant constexpr uint LOADS = BLOCK * OCTETS / WORKGROUP_SIZE; // octets of a block that a thread reads
constant constexpr uint K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
constant constexpr uint V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;

// Lanes that weigh the positions of a query, each as many fours of them.
constant constexpr uint ROW_LANES =
    SUBGROUP * ROW_SUBGROUPS / GROUP_QUERIES < BLOCK / 4u ? SUBGROUP * ROW_SUBGROUPS / GROUP_QUERIES : BLOCK / 4u;
constant constexpr uint LANE_FOURS = BLOCK / ROW_LANES / 4u;

constant constexpr uint FOURS = WORKGROUP_SIZE / 4u; // of positions that are located at a time, one by each thread

// Rows of what passes through threadgroup memory, in elements.
constant constexpr uint STRIP_PITCH = HEAD_DIM + 8u;
constant constexpr uint SUM_PITCH = BLOCK + 4u;
constant constexpr uint WEIGHT_PITCH = BLOCK + 8u;
constant constexpr uint SUMS = GROUP_QUERIES * SUM_PITCH;       // of a simdgroup
constant constexpr uint WEIGHTS = GROUP_QUERIES * WEIGHT_PITCH; // of a query group and norm

// On their way into matrices, queries lie where K and V will: those that BLOCK rows do not hold beside
// each other, in as many turns.
constant constexpr uint TURNS = (QUERIES + BLOCK - 1u) / BLOCK;
constant constexpr uint TURN_COORDS = SUBGROUP_COORDS / TURNS; // of each simdgroup
constant constexpr uint TURN_ROW = HEAD_DIM / TURNS;           // of all that share a query

constant constexpr float HIDDEN = -3.0e38f;      // score of a position that a query does not see: far under any running maximum
constant constexpr float LEAST_SCALE = 1.0e-20f; // of a V row, as far as the running maximum is concerned

// How far a score may rise above the running maximum before accumulators are rescaled: exp of it
// is far from what f16 can hold, and rescaling is rare.
constant constexpr float SLACK = 8.0f;

typedef simdgroup_matrix<half, 8, 8> Factor;
typedef simdgroup_matrix<float, 8, 8> Sum;

struct Params {
    uint n_heads;
    uint n_kv_heads;
    uint head_dim;
    uint num_tokens;
    uint num_sequences;
    uint max_query_tokens;
    uint page_size;
    uint num_pages;
    uint num_blocks;
    float scale;
    uint mask_type;
    uint sliding_window;
    float softcap;
    uint nwg;
    uint split_base;
    uint splits;
    float scale_factor_d512;
};
static_assert(sizeof(Params) == 68, "Params is the contract's block");

struct Sequence {
    uint first_token;  // of its query tokens in q
    uint query_tokens;
    uint position;     // of the first query token, counted from the oldest stored position
    uint kv_seq_len;
    uint ring_start;
    uint kv_capacity;
    uint first_block;  // its first entry of block_table
};
static_assert(sizeof(Sequence) == 28, "Sequence is the contract's record");

// Positions that the query at `position` sees: from x to before y.
inline uint2 visible(constant Params &params, uint kv_seq_len, uint position) {
    if (params.mask_type == 0u) {
        return uint2(0u, kv_seq_len);
    }
    uint end = min(position + 1u, kv_seq_len);
    return uint2(min(first_visible(position + 1u, params.mask_type, params.sliding_window), end), end);
}

// Row of a chronological position in the cache. Table and pages are clamped to what is bound, so
// that a wrong record or table cannot reach beyond it.
inline uint cache_row(
    constant Params &params, device const uint *block_table, Sequence sequence, uint kv_head, uint i) {
    uint slot = ring_slot(i, sequence.ring_start, sequence.kv_capacity);
    uint block = min(sequence.first_block + slot / params.page_size, params.num_blocks - 1u);
    uint page = min(block_table[block], params.num_pages - 1u);
    return (page * params.n_kv_heads + kv_head) * params.page_size + slot % params.page_size;
}

// Row of q and of the output of query i of the tile's KV head.
inline uint query_row(constant Params &params, Sequence sequence, uint kv_head, uint i) {
    uint token = min(sequence.first_token + i / GQA, params.num_tokens - 1u);
    return token * params.n_heads + kv_head * GQA + i % GQA;
}

// What a thread reads of a block of K or V whose first position is `first` of those located: the words
// of LOADS octets, as many of the eight as these have.
template <uint BITS, uint ROW_WORDS>
inline void words_at(
    device const uint *rows, threadgroup const uint *cache_rows, uint tid, uint first, thread uint (&words)[LOADS][8]) {
    for (uint l = 0; l < LOADS; l++) {
        uint x = l * WORKGROUP_SIZE + tid;
        uint bit = x % OCTETS * 8u * BITS;
        uint w = cache_rows[first + x / OCTETS] * ROW_WORDS + bit / 32u;
        for (uint i = 0; i < (BITS < 16u ? 2u : BITS / 4u); i++) {
            words[l][i] = rows[w + (BITS < 16u ? i * second_word(bit, BITS) : i)];
        }
    }
}

template <uint BITS>
inline Octet octet_of(threadgroup const float *codebook, thread const uint (&words)[8], uint bit, uint base) {
    if (BITS == 32u) {
        return octet_of_floats(
            uint4(words[0], words[1], words[2], words[3]), uint4(words[4], words[5], words[6], words[7]));
    }
    if (BITS == 16u) {
        return octet_of_halves(uint4(words[0], words[1], words[2], words[3]));
    }
    return octet_of_codes(codebook, uint2(words[0], words[1]), bit, BITS, base, 1.0f);
}

// Puts four values where matrices are loaded from.
inline void put_four(threadgroup half *at, float4 x) {
    for (uint e = 0; e < 4u; e++) {
        at[e] = half(x[e]);
    }
}

// Puts them where matrices are loaded from, rounded to f16 and without their norms.
template <uint BITS>
inline void stage(
    threadgroup half *strips, threadgroup const float *codebook, uint tid, thread const uint (&words)[LOADS][8], uint base) {
    for (uint l = 0; l < LOADS; l++) {
        uint x = l * WORKGROUP_SIZE + tid;
        Octet octet = octet_of<BITS>(codebook, words[l], x % OCTETS * 8u * BITS, base);
        uint at = x / OCTETS * STRIP_PITCH + x % OCTETS * 8u;
        put_four(strips + at, octet.lo);
        put_four(strips + at + 4u, octet.hi);
    }
}

kernel void flash_attn_mat_tile(
    constant Params &params [[buffer(0)]],
    device const float4 *q [[buffer(1)]],           // [token][head][coord / 4]
    device const Sequence *sequences [[buffer(2)]],
    device const uint *block_table [[buffer(3)]],   // page of each block
    device const uint *k [[buffer(4)]],             // [page][kv_head][slot][word]
    device const float *k_norms [[buffer(5)]],      // [page][kv_head][slot][block]
    device const uint *v [[buffer(6)]],             // [page][kv_head][slot][word]
    device const float *v_norms [[buffer(7)]],      // [page][kv_head][slot][block]
    device float *dst [[buffer(8)]],                // [token][head][coord], or partials
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint tid [[thread_index_in_threadgroup]]) {
    threadgroup float codebook[CODEBOOK_LEN];
    threadgroup uint cache_rows[WORKGROUP_SIZE];               // [position]
    threadgroup float k_scales[NORMS_PER_POS * WORKGROUP_SIZE]; // [norm][position]
    threadgroup float v_scales[NORMS_PER_POS * WORKGROUP_SIZE]; // [norm][position]
    threadgroup float v_logs[WORKGROUP_SIZE];                  // [position] of the largest scale
    threadgroup half strips[BLOCK * STRIP_PITCH];              // [position][coord] of K, then of V
    threadgroup float sums[SUBGROUPS * SUMS];                  // [simdgroup][query][position]
    // [query group][norm][query][position]
    threadgroup half weights[QUERIES / GROUP_QUERIES * NORMS_PER_POS * WEIGHTS];
    threadgroup float factors[QUERIES];                        // [query]; at the end sums
    threadgroup uint rises[SUBGROUPS];                         // [simdgroup]

    Sequence sequence = sequences[workgroup.z];
    uint kv_head = workgroup.y / params.splits;
    uint split = workgroup.y % params.splits;
    uint lane = tid % SUBGROUP;
    uint subgroup = tid / SUBGROUP;
    uint group = subgroup / ROW_SUBGROUPS;
    uint row_subgroup = subgroup % ROW_SUBGROUPS;
    uint first_query = workgroup.x * QUERIES;
    uint num_queries = sequence.query_tokens * GQA;
    if (first_query >= num_queries) {
        return;
    }
    threadgroup float *own_sums = sums + subgroup * SUMS;

    // Phase 1: codebook to threadgroup memory; the positions of this split that the tile sees; q through
    // the strips to matrices. A split is an equal contiguous part of what the sequence sees.
    codebook_fill(codebook, tid);
    uint last_query = min(first_query + QUERIES, num_queries) - 1u;
    uint all_begin = visible(params, sequence.kv_seq_len, sequence.position).x;
    uint all_end = visible(params, sequence.kv_seq_len, sequence.position + sequence.query_tokens - 1u).y;
    uint span = (all_end - all_begin + params.splits - 1u) / params.splits;
    uint split_begin = min(all_begin + split * span, all_end);
    uint split_end = min(split_begin + span, all_end);
    uint begin = max(split_begin, visible(params, sequence.kv_seq_len, sequence.position + first_query / GQA).x);
    uint end = min(split_end, visible(params, sequence.kv_seq_len, sequence.position + last_query / GQA).y);

    // Queries past the last repeat it and are not stored.
    Factor query[ROWS * MATRICES];
    for (uint turn = 0; turn < TURNS; turn++) {
        for (uint l = 0; l < BLOCK * HEAD_DIM / 4u / WORKGROUP_SIZE; l++) {
            uint x = l * WORKGROUP_SIZE + tid;
            uint i = x / (TURN_ROW / 4u);
            uint column = x % (TURN_ROW / 4u) * 4u;
            uint c = column / TURN_COORDS * SUBGROUP_COORDS + turn * TURN_COORDS + column % TURN_COORDS;
            uint row = query_row(params, sequence, kv_head, min(first_query + i, last_query));
            put_four(strips + i % BLOCK * STRIP_PITCH + i / BLOCK * TURN_ROW + column, q[(row * HEAD_DIM + c) / 4u]);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint r = 0; r < ROWS; r++) {
            uint i = group * GROUP_QUERIES + r * SIDE;
            uint at = i % BLOCK * STRIP_PITCH + i / BLOCK * TURN_ROW + row_subgroup * TURN_COORDS;
            for (uint j = 0; j < TURN_COORDS / SIDE; j++) {
                simdgroup_load(
                    query[r * MATRICES + turn * TURN_COORDS / SIDE + j], strips + at + j * SIDE, STRIP_PITCH);
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    // Lanes that have no query to weigh do as the first ones do, and write nothing.
    uint group_lane = tid % (SUBGROUP * ROW_SUBGROUPS);
    bool weighs = group_lane < GROUP_QUERIES * ROW_LANES;
    uint row = group_lane / ROW_LANES % GROUP_QUERIES;
    uint row_lane = group_lane % ROW_LANES;
    uint own_query = min(first_query + group * GROUP_QUERIES + row, last_query);
    uint2 sees = visible(params, sequence.kv_seq_len, sequence.position + own_query / GQA);
    sees.y = min(sees.y, end);
    float top = NO_SCORE; // running maximum, to within SLACK
    float sum = 0.0f;
    Sum acc[ROWS * MATRICES];
    for (uint j = 0; j < ROWS * MATRICES; j++) {
        acc[j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }

    for (uint located = begin; located < end; located += WORKGROUP_SIZE) {
        // A thread a position: its row in the cache, and what packed rows are to be multiplied by.
        // Positions past the end repeat the last one and get no weight.
        uint cached = cache_row(params, block_table, sequence, kv_head, min(located + tid, end - 1u));
        cache_rows[tid] = cached;
        float largest = LEAST_SCALE;
        for (uint n = 0; n < NORMS_PER_POS; n++) {
            float k_scale = 1.0f;
            if (K_BITS < 16u) {
                k_scale = decode_scale(k_norms[cached * NORMS_PER_POS + n], params.scale_factor_d512);
            }
            float v_scale = 1.0f;
            if (V_BITS < 16u) {
                v_scale = decode_scale(v_norms[cached * NORMS_PER_POS + n], params.scale_factor_d512);
            }
            k_scales[n * WORKGROUP_SIZE + tid] = k_scale;
            v_scales[n * WORKGROUP_SIZE + tid] = v_scale;
            largest = max(largest, v_scale);
        }
        v_logs[tid] = precise::log(largest);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        uint stop = min(located + WORKGROUP_SIZE, end);
        uint codes[LOADS][8];
        words_at<K_BITS, K_ROW_WORDS>(k, cache_rows, tid, 0u, codes);
        for (uint base = located; base < stop; base += BLOCK) {
            // Phase 2: scores. V is read meanwhile.
            stage<K_BITS>(strips, codebook, tid, codes, 0u);
            threadgroup_barrier(mem_flags::mem_threadgroup);
            words_at<V_BITS, V_ROW_WORDS>(v, cache_rows, tid, base - located, codes);
            Sum score[ROWS * COLUMNS];
            for (uint i = 0; i < ROWS * COLUMNS; i++) {
                score[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            }
            for (uint j = 0; j < MATRICES; j++) {
                for (uint b = 0; b < COLUMNS; b++) {
                    threadgroup const half *at = strips + b * SIDE * STRIP_PITCH + row_subgroup * SUBGROUP_COORDS + j * SIDE;
                    Factor key;
                    simdgroup_load(key, at, STRIP_PITCH, ulong2(0, 0), true);
                    for (uint r = 0; r < ROWS; r++) {
                        simdgroup_multiply_accumulate(
                            score[r * COLUMNS + b], query[r * MATRICES + j], key, score[r * COLUMNS + b]);
                    }
                }
            }
            for (uint r = 0; r < ROWS; r++) {
                for (uint b = 0; b < COLUMNS; b++) {
                    simdgroup_store(score[r * COLUMNS + b], own_sums + r * SIDE * SUM_PITCH + b * SIDE, SUM_PITCH);
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);

            // Phase 3: running softmax, which turns scores into weights that take V's norm along. So does
            // the running maximum: weights stay within f16 whatever the norms are. V takes K's place.
            float scores[LANE_FOURS * 4u];
            float highest = HIDDEN;
            for (uint e = 0; e < LANE_FOURS * 4u; e++) {
                uint position = row_lane * LANE_FOURS * 4u + e;
                float s = 0.0f;
                for (uint r = 0; r < ROW_SUBGROUPS; r++) {
                    float dot = sums[(group * ROW_SUBGROUPS + r) * SUMS + row * SUM_PITCH + position];
                    uint n = r * NORMS_PER_POS / ROW_SUBGROUPS;
                    s += dot * k_scales[n * WORKGROUP_SIZE + base - located + position];
                }
                s = soften(s * params.scale, params.softcap);
                bool counts = base + position >= sees.x && base + position < sees.y;
                scores[e] = counts ? s : HIDDEN;
                highest = max(highest, scores[e] + v_logs[base - located + position]);
            }
            for (ushort step = 1; step < ROW_LANES; step *= 2) {
                highest = max(highest, simd_shuffle_xor(highest, step));
            }
            float factor = 1.0f;
            bool rise = false;
            if (highest > top + SLACK) {
                // Before anything was seen there is nothing to rescale.
                rise = top > NO_SCORE;
                factor = precise::exp(top - highest);
                top = highest;
                sum *= factor;
            }
            if (weighs && row_lane == 0u) {
                factors[group * GROUP_QUERIES + row] = factor;
            }
            for (uint e = 0; e < LANE_FOURS * 4u; e++) {
                uint position = row_lane * LANE_FOURS * 4u + e;
                float weight = precise::exp(scores[e] - top);
                sum += weight;
                for (uint n = 0; n < NORMS_PER_POS; n++) {
                    uint at = (group * NORMS_PER_POS + n) * WEIGHTS + row * WEIGHT_PITCH + position;
                    if (weighs) {
                        weights[at] = half(weight * v_scales[n * WORKGROUP_SIZE + base - located + position]);
                    }
                }
            }
            stage<V_BITS>(strips, codebook, tid, codes, V_BASE);
            bool any_rise = simd_any(rise);
            if (lane == 0u) {
                rises[subgroup] = any_rise ? 1u : 0u;
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            uint risen = 0;
            for (uint r = 0; r < ROW_SUBGROUPS; r++) {
                risen |= rises[group * ROW_SUBGROUPS + r];
            }
            if (risen != 0u) {
                for (uint j = 0; j < ROWS * MATRICES; j++) {
                    simdgroup_store(acc[j], own_sums, SUM_PITCH);
                    simdgroup_barrier(mem_flags::mem_threadgroup);
                    for (uint x = lane; x < SIDE * SIDE; x += SUBGROUP) {
                        own_sums[x / SIDE * SUM_PITCH + x % SIDE] *=
                            factors[group * GROUP_QUERIES + j / MATRICES * SIDE + x / SIDE];
                    }
                    simdgroup_barrier(mem_flags::mem_threadgroup);
                    simdgroup_load(acc[j], own_sums, SUM_PITCH);
                    simdgroup_barrier(mem_flags::mem_threadgroup);
                }
            }

            // Phase 4: add the weighted V rows. The next K is read meanwhile.
            if (base + BLOCK < stop) {
                words_at<K_BITS, K_ROW_WORDS>(k, cache_rows, tid, base + BLOCK - located, codes);
            }
            for (uint b = 0; b < COLUMNS; b++) {
                uint own = group * NORMS_PER_POS + row_subgroup * NORMS_PER_POS / ROW_SUBGROUPS;
                Factor weighed[ROWS];
                for (uint r = 0; r < ROWS; r++) {
                    simdgroup_load(weighed[r], weights + own * WEIGHTS + r * SIDE * WEIGHT_PITCH + b * SIDE, WEIGHT_PITCH);
                }
                for (uint j = 0; j < MATRICES; j++) {
                    Factor value;
                    simdgroup_load(
                        value, strips + b * SIDE * STRIP_PITCH + row_subgroup * SUBGROUP_COORDS + j * SIDE, STRIP_PITCH);
                    for (uint r = 0; r < ROWS; r++) {
                        simdgroup_multiply_accumulate(
                            acc[r * MATRICES + j], weighed[r], value, acc[r * MATRICES + j]);
                    }
                }
            }
            // All have read what the next K takes the place of.
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }

    // Phase 5: add up the lanes' sums, and store, BLOCK coordinates at a time.
    for (ushort step = 1; step < ROW_LANES; step *= 2) {
        sum += simd_shuffle_xor(sum, step);
    }
    uint slot = params.split_base + split;
    if (weighs && row_lane == 0u) {
        factors[group * GROUP_QUERIES + row] = sum;
        if (params.nwg > 1u && first_query + group * GROUP_QUERIES + row <= last_query) {
            uint rows = params.num_tokens * params.n_heads;
            uint at = partial_pair_at(rows, query_row(params, sequence, kv_head, own_query), slot, params.nwg);
            dst[at] = sum;
            dst[at + 1u] = top;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint j = 0; j < MATRICES; j += COLUMNS) {
        for (uint r = 0; r < ROWS; r++) {
            for (uint b = 0; b < COLUMNS; b++) {
                simdgroup_store(
                    acc[r * MATRICES + j + b], own_sums + r * SIDE * SUM_PITCH + b * SIDE, SUM_PITCH);
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint x = lane; x < GROUP_QUERIES * BLOCK; x += SUBGROUP) {
            uint i = first_query + group * GROUP_QUERIES + x / BLOCK;
            if (i <= last_query) {
                float value = own_sums[x / BLOCK * SUM_PITCH + x % BLOCK];
                float all_sum = factors[group * GROUP_QUERIES + x / BLOCK];
                uint c = row_subgroup * SUBGROUP_COORDS + j * SIDE + x % BLOCK;
                uint out = query_row(params, sequence, kv_head, i);
                if (params.nwg == 1u) {
                    dst[out * HEAD_DIM + c] = all_sum == 0.0f ? 0.0f : value / all_sum;
                } else {
                    dst[partial_at(out, c, slot, params.nwg)] = value;
                }
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}
