// Attention of several query tokens of several sequences over a paged cache, packed or dense.
//
// A query is one query head of one token. Threadgroup (x, y, z): x = tile of QUERIES queries that
// share a KV head, y = KV head and split of the positions, z = sequence. K and V pass through
// threadgroup memory, CHUNK coordinates of BLOCK positions at a time, so that a row is decoded
// once for the whole tile. The QUADS lanes of a query group score THREAD_QUERIES queries, each
// lane against positions lane, lane + QUADS .. of a block; of the accumulators, a lane owns one
// quad of coordinates in each chunk.
// Contract: src/kernels/flash_attn_tile.rs. Oracle: src/oracle/flash_attn_tile.rs.

constant constexpr uint CHUNK = 64u;
constant constexpr uint CHUNKS = HEAD_DIM / CHUNK;
constant constexpr uint OCTETS = CHUNK / 8u;
constant constexpr uint QUADS = CHUNK / 4u;
constant constexpr uint PITCH = QUADS + 1u; // of a staged position; a quad of padding spreads lanes over the banks
constant constexpr uint QUERIES = WORKGROUP_SIZE / QUADS * THREAD_QUERIES;
constant constexpr uint THREAD_POSITIONS = BLOCK / QUADS;
constant constexpr uint K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
constant constexpr uint V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;
constant constexpr uint NORM_OCTETS = HEAD_DIM / NORMS_PER_POS / 8u; // octets that share a norm

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

inline Octet k_octet(
    constant Params &params, device const uint *k, device const float *k_norms,
    threadgroup const float *codebook, uint row, uint octet) {
    uint bit = octet * 8u * K_BITS;
    uint w = row * K_ROW_WORDS + bit / 32u;
    if (K_BITS == 32u) {
        return octet_of_floats(
            uint4(k[w], k[w + 1u], k[w + 2u], k[w + 3u]), uint4(k[w + 4u], k[w + 5u], k[w + 6u], k[w + 7u]));
    }
    if (K_BITS == 16u) {
        return octet_of_halves(uint4(k[w], k[w + 1u], k[w + 2u], k[w + 3u]));
    }
    float factor = decode_scale(k_norms[row * NORMS_PER_POS + octet / NORM_OCTETS], params.scale_factor_d512);
    return octet_of_codes(codebook, uint2(k[w], k[w + second_word(bit, K_BITS)]), bit, K_BITS, 0u, factor);
}

inline Octet v_octet(
    constant Params &params, device const uint *v, device const float *v_norms,
    threadgroup const float *codebook, uint row, uint octet) {
    uint bit = octet * 8u * V_BITS;
    uint w = row * V_ROW_WORDS + bit / 32u;
    if (V_BITS == 32u) {
        return octet_of_floats(
            uint4(v[w], v[w + 1u], v[w + 2u], v[w + 3u]), uint4(v[w + 4u], v[w + 5u], v[w + 6u], v[w + 7u]));
    }
    if (V_BITS == 16u) {
        return octet_of_halves(uint4(v[w], v[w + 1u], v[w + 2u], v[w + 3u]));
    }
    float factor = decode_scale(v_norms[row * NORMS_PER_POS + octet / NORM_OCTETS], params.scale_factor_d512);
    return octet_of_codes(codebook, uint2(v[w], v[w + second_word(bit, V_BITS)]), bit, V_BITS, V_BASE, factor);
}

kernel void flash_attn_tile(
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
    threadgroup uint cache_rows[BLOCK];              // [position]
    threadgroup float4 staged[BLOCK * PITCH];        // [position][quad] of K, then of V
    threadgroup float weights[BLOCK * QUERIES];      // [position][query]
    threadgroup float lane_values[QUADS * QUERIES];  // [lane][query]: maxima, at the end sums

    Sequence sequence = sequences[workgroup.z];
    uint kv_head = workgroup.y / params.splits;
    uint split = workgroup.y % params.splits;
    uint lane = tid % QUADS;
    uint query = tid / QUADS * THREAD_QUERIES; // this thread's first of the tile
    uint first_query = workgroup.x * QUERIES;
    uint num_queries = sequence.query_tokens * GQA;
    if (first_query >= num_queries) {
        return;
    }

    // Phase 1: codebook to threadgroup memory; the positions of this split that the tile sees. A
    // split is an equal contiguous part of what the sequence sees.
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
    uint q_rows[THREAD_QUERIES];
    uint2 seen[THREAD_QUERIES];
    float top[THREAD_QUERIES];
    float sum[THREAD_QUERIES];
    float4 acc[THREAD_QUERIES * CHUNKS];
    for (uint r = 0; r < THREAD_QUERIES; r++) {
        uint i = min(first_query + query + r, last_query);
        uint token = min(sequence.first_token + i / GQA, params.num_tokens - 1u);
        q_rows[r] = token * params.n_heads + kv_head * GQA + i % GQA;
        uint2 sees = visible(params, sequence.kv_seq_len, sequence.position + i / GQA);
        seen[r] = uint2(max(begin, sees.x), min(end, sees.y));
        top[r] = NO_SCORE;
        sum[r] = 0.0f;
        for (uint chunk = 0; chunk < CHUNKS; chunk++) {
            acc[r * CHUNKS + chunk] = float4(0.0f);
        }
    }

    for (uint base = begin; base < end; base += BLOCK) {
        // Phase 2: scores, a chunk of the coordinates at a time. Positions past the end repeat
        // the last one and get no weight.
        if (tid < BLOCK) {
            cache_rows[tid] = cache_row(params, block_table, sequence, kv_head, min(base + tid, end - 1u));
        }
        float scores[THREAD_QUERIES * THREAD_POSITIONS];
        for (uint i = 0; i < THREAD_QUERIES * THREAD_POSITIONS; i++) {
            scores[i] = 0.0f;
        }
        for (uint chunk = 0; chunk < CHUNKS; chunk++) {
            // All have read what was staged before.
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (uint i = tid; i < BLOCK * OCTETS; i += WORKGROUP_SIZE) {
                Octet octet = k_octet(
                    params, k, k_norms, codebook, cache_rows[i / OCTETS], chunk * OCTETS + i % OCTETS);
                uint at = i / OCTETS * PITCH + i % OCTETS * 2u;
                staged[at] = octet.lo;
                staged[at + 1u] = octet.hi;
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (uint c = 0; c < QUADS; c++) {
                float4 keys[THREAD_POSITIONS];
                for (uint p = 0; p < THREAD_POSITIONS; p++) {
                    keys[p] = staged[(lane + p * QUADS) * PITCH + c];
                }
                for (uint r = 0; r < THREAD_QUERIES; r++) {
                    float4 x = q[q_rows[r] * (HEAD_DIM / 4u) + chunk * QUADS + c];
                    for (uint p = 0; p < THREAD_POSITIONS; p++) {
                        scores[r * THREAD_POSITIONS + p] += dot(x, keys[p]);
                    }
                }
            }
        }

        // Phase 3: running softmax; scores become weights.
        for (uint r = 0; r < THREAD_QUERIES; r++) {
            float lane_top = NO_SCORE;
            for (uint p = 0; p < THREAD_POSITIONS; p++) {
                uint at = r * THREAD_POSITIONS + p;
                uint i = base + lane + p * QUADS;
                scores[at] = soften(scores[at] * params.scale, params.softcap);
                bool counts = i >= seen[r].x && i < seen[r].y;
                lane_top = max(lane_top, counts ? scores[at] : NO_SCORE);
            }
            lane_values[lane * QUERIES + query + r] = lane_top;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint r = 0; r < THREAD_QUERIES; r++) {
            float new_top = top[r];
            for (uint l = 0; l < QUADS; l++) {
                new_top = max(new_top, lane_values[l * QUERIES + query + r]);
            }
            float rescale = precise::exp(top[r] - new_top);
            top[r] = new_top;
            sum[r] *= rescale;
            for (uint chunk = 0; chunk < CHUNKS; chunk++) {
                acc[r * CHUNKS + chunk] *= rescale;
            }
            for (uint p = 0; p < THREAD_POSITIONS; p++) {
                uint i = base + lane + p * QUADS;
                bool counts = i >= seen[r].x && i < seen[r].y;
                float weight = counts ? precise::exp(scores[r * THREAD_POSITIONS + p] - new_top) : 0.0f;
                sum[r] += weight;
                weights[(lane + p * QUADS) * QUERIES + query + r] = weight;
            }
        }

        // Phase 4: add the weighted V rows, a chunk of the coordinates at a time.
        for (uint chunk = 0; chunk < CHUNKS; chunk++) {
            // All have read what was staged before, and the weights are complete.
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (uint i = tid; i < BLOCK * OCTETS; i += WORKGROUP_SIZE) {
                Octet octet = v_octet(
                    params, v, v_norms, codebook, cache_rows[i / OCTETS], chunk * OCTETS + i % OCTETS);
                uint at = i / OCTETS * PITCH + i % OCTETS * 2u;
                staged[at] = octet.lo;
                staged[at + 1u] = octet.hi;
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            // In variables of their own, which stay in registers where acc[] is indexed in memory.
            float4 part[THREAD_QUERIES];
            for (uint r = 0; r < THREAD_QUERIES; r++) {
                part[r] = float4(0.0f);
            }
            for (uint p = 0; p < BLOCK; p++) {
                float4 value = staged[p * PITCH + lane];
                for (uint r = 0; r < THREAD_QUERIES; r++) {
                    part[r] += weights[p * QUERIES + query + r] * value;
                }
            }
            for (uint r = 0; r < THREAD_QUERIES; r++) {
                acc[r * CHUNKS + chunk] += part[r];
            }
        }
    }

    // Phase 5: add up the lanes' sums, and store.
    for (uint r = 0; r < THREAD_QUERIES; r++) {
        lane_values[lane * QUERIES + query + r] = sum[r];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint r = 0; r < THREAD_QUERIES; r++) {
        if (first_query + query + r <= last_query) {
            uint row = q_rows[r];
            uint slot = params.split_base + split;
            float all_sum = 0.0f;
            for (uint l = 0; l < QUADS; l++) {
                all_sum += lane_values[l * QUERIES + query + r];
            }
            for (uint i = 0; i < CHUNKS * 4u; i++) {
                float value = acc[r * CHUNKS + i / 4u][i % 4u];
                uint c = i / 4u * CHUNK + lane * 4u + i % 4u;
                if (params.nwg == 1u) {
                    dst[row * HEAD_DIM + c] = all_sum == 0.0f ? 0.0f : value / all_sum;
                } else {
                    dst[partial_at(row, c, slot, params.nwg)] = value;
                }
            }
            if (params.nwg > 1u && lane == 0u) {
                uint at = partial_pair_at(params.num_tokens * params.n_heads, row, slot, params.nwg);
                dst[at] = all_sum;
                dst[at + 1u] = top[r];
            }
        }
    }
}
