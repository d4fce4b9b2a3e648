// Decode attention of one query token over dense K and V, f32 or f16 (shared/kv_f32.h,
// shared/kv_f16.h): the control that the packed kernel is measured against.
//
// Threadgroup (x, y): x = KV head and part of its query heads, y = split of the visible
// positions. All GROUP query heads share one read of K and V. See shared/attention.h for row
// groups; each handles ROWS positions at a time, so that ROWS reads are in flight.
// Contract: src/kernels/flash_attn_vec.rs. Oracle: src/oracle/flash_attn_vec.rs.

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
};
static_assert(sizeof(Params) == 44, "Params is the contract's block");

kernel void flash_attn_vec(
    constant Params &params [[buffer(0)]],
    device const float4 *q [[buffer(1)]], // [head][coord / 4]
    device const KvVec *k [[buffer(2)]],  // [kv_head][slot][coord / 4]
    device const KvVec *v [[buffer(3)]],  // [kv_head][slot][coord / 4]
    device float *dst [[buffer(4)]],      // [head][coord], or partials
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint tid [[thread_index_in_threadgroup]]) {
    threadgroup float4 merge_acc[MERGE_VECTORS];
    threadgroup float merge_max[MERGE_GROUPS * GROUP_PAD];
    threadgroup float merge_factor[MERGE_GROUPS * GROUP_PAD];
    threadgroup float merge_part[MERGE_GROUPS * GROUP_PAD];
    threadgroup float merge_sum[MERGE_GROUPS * GROUP_PAD];

    uint lane = tid % LANES;
    uint row_group = tid / LANES;
    uint kv_head = workgroup.x / GROUPS_PER_KV;
    uint first_head = kv_head * GQA + (workgroup.x % GROUPS_PER_KV) * GROUP;
    uint end_head = min(first_head + GROUP, (kv_head + 1u) * GQA);
    uint split = workgroup.y;

    // Phase 1: q to registers.
    float4 query[GROUP * VECS];
    for (uint h = 0; h < GROUP; h++) {
        uint head = min(first_head + h, end_head - 1u);
        for (uint i = 0; i < VECS; i++) {
            query[h * VECS + i] = q[(head * HEAD_DIM + lane * COORDS) / 4u + i];
        }
    }

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
            for (uint c = 0; c < VECS; c++) {
                float4 x = widen(k[(row * HEAD_DIM + lane * COORDS) / 4u + c]);
                for (uint h = 0; h < GROUP; h++) {
                    scores[r * GROUP + h] += dot(x, query[h * VECS + c]);
                }
            }
            for (uint h = 0; h < GROUP; h++) {
                scores[r * GROUP + h] *= params.scale;
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
            for (uint c = 0; c < VECS; c++) {
                float4 x = widen(v[(rows[r] * HEAD_DIM + lane * COORDS) / 4u + c]);
                for (uint h = 0; h < GROUP; h++) {
                    acc[h * VECS + c] += scores[r * GROUP + h] * x;
                }
            }
        }
    }

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time, and store.
    Merge merge = {merge_max, merge_sum, merge_acc, merge_factor, merge_part, 1u};
    Place place = {split, params.n_heads, params.nwg};
    if (lane == 0u) {
        for (uint h = 0; h < GROUP; h++) {
            merge_max[row_group * GROUP_PAD + h] = top[h];
            merge_sum[row_group * GROUP_PAD + h] = sum[h];
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
