// Decode attention of one query token over packed K and V, in the rotated basis.
//
// Threadgroup (x, y): x = KV head and part of its query heads, y = split of the visible
// positions. All GROUP query heads share one read of K and V. See shared/attention.h for row
// groups; each handles ROWS positions at a time, so that ROWS reads are in flight.
// Contract: src/kernels/flash_attn_vec_tq.rs. Oracle: src/oracle/flash_attn_vec_tq.rs.

constant constexpr uint OCTETS = COORDS / 8u; // groups of eight codes that a lane reads of each row
constant constexpr uint K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
constant constexpr uint V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;
constant constexpr uint BLOCK_LANES = LANES / NORMS_PER_POS; // lanes whose coordinates share a norm

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

kernel void flash_attn_vec_tq(
    constant Params &params [[buffer(0)]],
    device const float4 *q [[buffer(1)]],      // [head][coord / 4], rotated
    device const uint *k_packed [[buffer(2)]], // [kv_head][slot][word]
    device const float *k_norms [[buffer(3)]], // [kv_head][slot][block]
    device const uint *v_packed [[buffer(4)]], // [kv_head][slot][word]
    device const float *v_norms [[buffer(5)]], // [kv_head][slot][block]
    device float *dst [[buffer(6)]],           // [head][coord], or partials
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint tid [[thread_index_in_threadgroup]]) {
    threadgroup float codebook[CODEBOOK_LEN];
    threadgroup float merge_acc[ROW_GROUPS * HEAD_DIM];
    threadgroup float merge_max[ROW_GROUPS];
    threadgroup float merge_sum[ROW_GROUPS];

    uint lane = tid % LANES;
    uint row_group = tid / LANES;
    uint kv_head = workgroup.x / GROUPS_PER_KV;
    uint first_head = kv_head * GQA + (workgroup.x % GROUPS_PER_KV) * GROUP;
    uint end_head = min(first_head + GROUP, (kv_head + 1u) * GQA);
    uint split = workgroup.y;

    // Phase 1: codebook to threadgroup memory, q to registers.
    codebook_fill(codebook, tid);
    float4 query[GROUP * VECS];
    for (uint h = 0; h < GROUP; h++) {
        uint head = min(first_head + h, end_head - 1u);
        for (uint i = 0; i < VECS; i++) {
            query[h * VECS + i] = q[(head * HEAD_DIM + lane * COORDS) / 4u + i];
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    // The positions of this split: an equal contiguous part of the visible ones.
    uint first = first_visible(params.kv_seq_len, params.mask_type, params.sliding_window);
    uint span = (params.kv_seq_len - first + params.nwg - 1u) / params.nwg;
    uint begin = min(first + split * span, params.kv_seq_len);
    uint end = min(begin + span, params.kv_seq_len);

    float start = sum_start(row_sum_fits(tid));
    float top[GROUP];
    float sum[GROUP];
    float4 acc[GROUP * VECS];
    for (uint h = 0; h < GROUP; h++) {
        top[h] = NO_SCORE;
        sum[h] = start;
        for (uint i = 0; i < VECS; i++) {
            acc[h * VECS + i] = float4(start);
        }
    }

    for (uint base = begin; base < end; base += ROW_GROUPS * ROWS) {
        // Phase 2: scores. Rows past the end repeat the last one and get no weight.
        uint rows[ROWS];
        float scores[ROWS * GROUP];
        for (uint r = 0; r < ROWS; r++) {
            uint i = min(base + r * ROW_GROUPS + row_group, end - 1u);
            uint row = kv_head * params.kv_capacity + ring_slot(i, params.ring_start, params.kv_capacity);
            rows[r] = row;
            for (uint h = 0; h < GROUP; h++) {
                scores[r * GROUP + h] = 0.0f;
            }
            for (uint o = 0; o < OCTETS; o++) {
                uint bit = (lane * OCTETS + o) * 8u * K_BITS;
                uint word = row * K_ROW_WORDS + bit / 32u;
                uint2 words = uint2(k_packed[word], k_packed[word + second_word(bit, K_BITS)]);
                float4 lo = centroids(codebook, four_codes(words, bit % 32u), K_BITS, 0u);
                float4 hi = centroids(codebook, four_codes(words, bit % 32u + 4u * K_BITS), K_BITS, 0u);
                for (uint h = 0; h < GROUP; h++) {
                    uint at = h * VECS + 2u * o;
                    scores[r * GROUP + h] += dot(lo, query[at]) + dot(hi, query[at + 1u]);
                }
            }
            float norm = k_norms[row * NORMS_PER_POS + lane / BLOCK_LANES];
            float factor = decode_scale(norm, params.scale_factor_d512) * params.scale;
            for (uint h = 0; h < GROUP; h++) {
                scores[r * GROUP + h] *= factor;
            }
        }
        for (uint i = 0; i < ROWS * GROUP; i++) {
            scores[i] = soften(row_sum(scores[i]), params.softcap);
        }

        // Phase 3: running softmax; scores become weights.
        for (uint h = 0; h < GROUP; h++) {
            float new_top = top[h];
            for (uint r = 0; r < ROWS; r++) {
                bool visible = base + r * ROW_GROUPS + row_group < end;
                new_top = max(new_top, visible ? scores[r * GROUP + h] : NO_SCORE);
            }
            float rescale = precise::exp(top[h] - new_top);
            top[h] = new_top;
            sum[h] *= rescale;
            for (uint i = 0; i < VECS; i++) {
                acc[h * VECS + i] *= rescale;
            }
            for (uint r = 0; r < ROWS; r++) {
                bool visible = base + r * ROW_GROUPS + row_group < end;
                float weight = visible ? precise::exp(scores[r * GROUP + h] - new_top) : 0.0f;
                sum[h] += weight;
                scores[r * GROUP + h] = weight;
            }
        }

        // Phase 4: add the weighted V rows.
        for (uint r = 0; r < ROWS; r++) {
            uint row = rows[r];
            float norm = v_norms[row * NORMS_PER_POS + lane / BLOCK_LANES];
            float factor = decode_scale(norm, params.scale_factor_d512);
            for (uint o = 0; o < OCTETS; o++) {
                uint bit = (lane * OCTETS + o) * 8u * V_BITS;
                uint word = row * V_ROW_WORDS + bit / 32u;
                uint2 words = uint2(v_packed[word], v_packed[word + second_word(bit, V_BITS)]);
                float4 lo = centroids(codebook, four_codes(words, bit % 32u), V_BITS, V_BASE) * factor;
                float4 hi = centroids(codebook, four_codes(words, bit % 32u + 4u * V_BITS), V_BITS, V_BASE) * factor;
                for (uint h = 0; h < GROUP; h++) {
                    uint at = h * VECS + 2u * o;
                    acc[at] += scores[r * GROUP + h] * lo;
                    acc[at + 1u] += scores[r * GROUP + h] * hi;
                }
            }
        }
    }

    // Phase 5: merge the row groups, one query head at a time, and store. Two barriers a head are
    // enough: each array is read between one pair of barriers and written between the other.
    for (uint h = 0; h < GROUP; h++) {
        if (lane == 0u) {
            merge_max[row_group] = top[h];
            merge_sum[row_group] = sum[h];
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float all_top = merged_max(merge_max);
        float all_sum = merged_sum(merge_max, merge_sum, all_top);
        float factor = precise::exp(top[h] - all_top);
        for (uint i = 0; i < VECS; i++) {
            for (uint c = 0; c < 4u; c++) {
                merge_acc[row_group * HEAD_DIM + lane * COORDS + i * 4u + c] = acc[h * VECS + i][c] * factor;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        uint head = first_head + h;
        if (head < end_head) {
            for (uint c = tid; c < HEAD_DIM; c += WORKGROUP_SIZE) {
                float value = merged_acc(merge_acc, c);
                if (params.nwg == 1u) {
                    dst[head * HEAD_DIM + c] = all_sum == 0.0f ? 0.0f : value / all_sum;
                } else {
                    dst[partial_at(head, c, split, params.nwg)] = value;
                }
            }
            if (params.nwg > 1u && tid == 0u) {
                uint at = partial_pair_at(params.n_heads, head, split, params.nwg);
                dst[at] = all_sum;
                dst[at + 1u] = all_top;
            }
        }
    }
}
