// Decode attention of one query token over packed K and V in one dispatch: q and the output are in
// the natural basis, and splits are merged here.
//
// Threadgroup (x, y): column x = KV head and part of its query heads, y = split of the visible
// positions. Each rotates the GROUP query heads that share its read of K and V. Of a column, the
// threadgroup that finishes last merges the splits and rotates the output back. Phases 2 to 4 are in
// shared/attend.h, row groups in shared/attention.h, rotations in shared/rotate.h.
//
// Threadgroups are ordered by fences of device scope, which Metal has since 3.2 (macOS 15).
// Contract: src/kernels/flash_attn_decode_tq.rs. Oracle: src/oracle/flash_attn_decode_tq.rs.

constant constexpr uint MERGE_THREADS = WORKGROUP_SIZE / ROWS_PER_WORKGROUP; // that merge the splits of a row
constant constexpr uint MERGED = HEAD_DIM / MERGE_THREADS < 1u ? 1u : HEAD_DIM / MERGE_THREADS < 4u ? HEAD_DIM / MERGE_THREADS : 4u; // coordinates of each, at a time
constant constexpr uint SPLITS_AT_ONCE = 8u; // that a thread has in flight; divides MAX_SPLITS

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

// Rotates a query head into row h of `rows`.
inline void rotate_row(device const float *q, threadgroup float *rows, uint h, uint t, uint head) {
    float x[EPT];
    for (uint m = 0; m < EPT; m++) {
        x[m] = q[head * HEAD_DIM + t * EPT + m];
    }
    if (SIGN_BEFORE) {
        apply_signs(x, t * EPT);
    }
    butterflies(x, t);
    float factor = normaliser(t);
    for (uint m = 0; m < EPT; m++) {
        rows[h * HEAD_DIM + t * EPT + m] = x[m] * factor;
    }
}

// Rotates row `row` of the exchange back, to the output of a query head.
inline void store_row(device float *dst, threadgroup const float *exchange, uint row, uint t, uint head) {
    float x[EPT];
    for (uint m = 0; m < EPT; m++) {
        x[m] = exchange[row * HEAD_DIM + t * EPT + m];
    }
    butterflies(x, t);
    float factor = normaliser(t);
    for (uint m = 0; m < EPT; m++) {
        x[m] *= factor;
    }
    if (SIGN_AFTER) {
        apply_signs(x, t * EPT);
    }
    for (uint m = 0; m < EPT; m++) {
        dst[head * HEAD_DIM + t * EPT + m] = x[m];
    }
}

// Stores vector f of the output of query head `first_head + h`, the `nth` of its batch.
inline void put_output(device float *dst, Merge merge, uint first_head, uint h, uint nth, uint f) {
    float4 acc = merged_acc(merge, h, nth, f);
    float sum = merged_sum(merge, h);
    for (uint i = 0; i < 4u; i++) {
        dst[(first_head + h) * HEAD_DIM + 4u * f + i] = sum == 0.0f ? 0.0f : acc[i] / sum;
    }
}

// Puts the stored output of query head `head + row`, thread u of those that share the row, into row
// `row` of the exchange.
inline void get_output(device const float *dst, threadgroup float *exchange, uint row, uint u, uint head) {
    for (uint c = u; c < HEAD_DIM; c += MERGE_THREADS) {
        exchange[row * HEAD_DIM + c] = dst[(head + row) * HEAD_DIM + c];
    }
}

// The counters, one a column, and behind them the partials.
struct Scratch {
    device atomic_uint *words;
    uint n_heads;
    uint columns;
    uint nwg;
};

// Index in the scratch of the accumulators of a query head and split, and of its pair (S, M).
inline uint accs_at(Scratch scratch, uint head, uint split) {
    return scratch.columns + (head * scratch.nwg + split) * HEAD_DIM;
}
inline uint pair_at(Scratch scratch, uint head, uint split) {
    return accs_at(scratch, scratch.n_heads, 0u) + (head * scratch.nwg + split) * 2u;
}

inline float scratch_get(Scratch scratch, uint at) {
    return as_type<float>(atomic_load_explicit(&scratch.words[at], memory_order_relaxed));
}
inline void scratch_put(Scratch scratch, uint at, float x) {
    atomic_store_explicit(&scratch.words[at], as_type<uint>(x), memory_order_relaxed);
}

// Stores vector f of the partials of query head `first_head + h`, the `nth` of its batch.
inline void put_partial(Scratch scratch, Merge merge, uint first_head, uint h, uint nth, uint f, uint split) {
    float4 acc = merged_acc(merge, h, nth, f);
    for (uint i = 0; i < 4u; i++) {
        scratch_put(scratch, accs_at(scratch, first_head + h, split) + 4u * f + i, acc[i]);
    }
    if (f == 0u) {
        uint at = pair_at(scratch, first_head + h, split);
        scratch_put(scratch, at, merged_sum(merge, h));
        scratch_put(scratch, at + 1u, merged_max(merge, h));
    }
}

// A pair as the merge takes it: the maximum of nothing is no one's. A NaN must stay one.
inline float2 pair_of(Scratch scratch, uint head, uint split) {
    uint at = pair_at(scratch, head, min(split, scratch.nwg - 1u));
    float2 seen = float2(scratch_get(scratch, at), scratch_get(scratch, at + 1u));
    return split >= scratch.nwg || seen.x == 0.0f ? float2(0.0f, NO_SCORE) : seen;
}

// Reads the pairs of all splits into merge_acc, which is free by now: (S, M, S, M) of two splits
// a vector, [head][split / 2]. Splits up to a multiple of SPLITS_AT_ONCE have seen nothing.
inline void get_pairs(Scratch scratch, threadgroup float4 *merge_acc, uint tid, uint first_head, uint end_head) {
    uint pairs = (scratch.nwg + SPLITS_AT_ONCE - 1u) / SPLITS_AT_ONCE * SPLITS_AT_ONCE / 2u;
    for (uint x = tid; x < GROUP * pairs; x += WORKGROUP_SIZE) {
        uint h = x / pairs;
        uint w = x % pairs * 2u;
        uint head = min(first_head + h, end_head - 1u);
        merge_acc[h * (MAX_SPLITS / 2u) + x % pairs] = float4(pair_of(scratch, head, w), pair_of(scratch, head, w + 1u));
    }
}

// Puts the merged splits of query head `head + row`, `h + row` of the group, thread u of those that
// share the row, into row `row` of the exchange.
inline void merge_splits(
    Scratch scratch, threadgroup const float4 *merge_acc, threadgroup float *exchange, uint row, uint u, uint h, uint head) {
    uint pairs = (h + row) * (MAX_SPLITS / 2u);
    float top = NO_SCORE;
    for (uint w = 0; w < scratch.nwg; w += 2u) {
        float4 two = merge_acc[pairs + w / 2u];
        top = max(top, max(two.y, two.w));
    }
    for (uint c = u; c < HEAD_DIM; c += MERGED * MERGE_THREADS) {
        float acc[MERGED] = {};
        float sum = 0.0f;
        for (uint w = 0; w < scratch.nwg; w += SPLITS_AT_ONCE) {
            float part[SPLITS_AT_ONCE * MERGED];
            for (uint j = 0; j < SPLITS_AT_ONCE; j++) {
                uint at = accs_at(scratch, head + row, min(w + j, scratch.nwg - 1u)) + c;
                for (uint i = 0; i < MERGED; i++) {
                    part[j * MERGED + i] = scratch_get(scratch, at + i * MERGE_THREADS);
                }
            }
            for (uint j = 0; j < SPLITS_AT_ONCE; j++) {
                float4 two = merge_acc[pairs + w / 2u + j / 2u];
                float2 pair = j % 2u == 1u ? two.zw : two.xy;
                float weight = pair.x == 0.0f ? 0.0f : precise::exp(pair.y - top);
                sum += weight * pair.x;
                for (uint i = 0; i < MERGED; i++) {
                    acc[i] += weight * part[j * MERGED + i];
                }
            }
        }
        for (uint i = 0; i < MERGED; i++) {
            exchange[row * HEAD_DIM + c + i * MERGE_THREADS] = sum == 0.0f ? 0.0f : acc[i] / sum;
        }
    }
}

kernel void flash_attn_decode_tq(
    constant Params &params [[buffer(0)]],
    device const float *q [[buffer(1)]],       // [head][coord]
    device const uint *k_packed [[buffer(2)]], // [kv_head][slot][word]
    device const float *k_norms [[buffer(3)]], // [kv_head][slot][block]
    device const uint *v_packed [[buffer(4)]], // [kv_head][slot][word]
    device const float *v_norms [[buffer(5)]], // [kv_head][slot][block]
    device float *dst [[buffer(6)]],           // [head][coord]
    device atomic_uint *scratch [[buffer(7)]], // [column], then partials
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint tid [[thread_index_in_threadgroup]],
    uint simd_lane [[thread_index_in_simdgroup]]) {
    threadgroup float codebook[CODEBOOK_LEN];
    threadgroup float4 merge_acc[MERGE_VECTORS];
    threadgroup float merge_max[MERGE_GROUPS * GROUP_PAD];
    threadgroup float merge_factor[MERGE_GROUPS * GROUP_PAD];
    threadgroup float merge_part[MERGE_GROUPS * GROUP_PAD];
    threadgroup float merge_sum[MERGE_GROUPS * SCORES];
    threadgroup float exchange[ROWS_PER_WORKGROUP * HEAD_DIM];
    threadgroup uint arrived; // threadgroups of the column that were done before this one

    uint lane = tid % LANES;
    uint kv_head = workgroup.x / GROUPS_PER_KV;
    uint first_head = kv_head * GQA + (workgroup.x % GROUPS_PER_KV) * GROUP;
    uint end_head = min(first_head + GROUP, (kv_head + 1u) * GQA);
    uint split = workgroup.y;
    uint t = tid % ROW_THREADS; // of a row that is being rotated
    uint local_row = tid / ROW_THREADS;
    Cache cache = {k_packed, k_norms, v_packed, v_norms, params.kv_capacity, params.ring_start};
    Scratch partials = {scratch, params.n_heads, params.n_kv_heads * GROUPS_PER_KV, params.nwg};

    // The positions of this split: an equal contiguous part of the visible ones.
    uint first = first_visible(params.kv_seq_len, params.mask_type, params.sliding_window);
    uint span = (params.kv_seq_len - first + params.nwg - 1u) / params.nwg;
    uint begin = min(first + split * span, params.kv_seq_len);
    uint end = min(begin + span, params.kv_seq_len);

    // Phase 1: first tile to registers, codebook to threadgroup memory, q rotated and to registers.
    Tile next = {};
    if (begin < end) {
        next = tile_at(cache, tid, begin, end, kv_head);
    }
    codebook_fill(codebook, tid);
    for (uint first_row = 0; first_row < GROUP; first_row += ROWS_PER_WORKGROUP) {
        uint h = first_row + local_row;
        if (local_row < min(GROUP - first_row, ROWS_PER_WORKGROUP)) {
            rotate_row(q, (threadgroup float *)merge_acc, h, t, min(first_head + h, end_head - 1u));
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float4 query[GROUP * VECS];
    for (uint h = 0; h < GROUP; h++) {
        for (uint i = 0; i < VECS; i++) {
            query[h * VECS + i] = merge_acc[(h * HEAD_DIM + lane * COORDS) / 4u + i];
        }
    }

    Running running = nothing_seen(sum_start(exchange_fits(tid, simd_lane)));
    for (uint base = begin; base < end; base += TILE) {
        Tile tile = next;
        if (base + TILE < end) {
            next = tile_at(cache, tid, base + TILE, end, kv_head);
        }

        // Phase 2: scores. Each lane adds up its coordinates, owners the lanes.
        Scores scores = lane_scores(codebook, tile, query);
        Owned owned = scaled_sums(tile, block_sums(tid, scores), params.scale, params.scale_factor_d512);
        owned = visible_scores(tid, base, end, row_sums(owned), params.softcap);

        // Phase 3: running softmax; scores become weights.
        if (some_rise(owned, running.owned_top)) {
            rescale(tid, simd_lane, owned, running);
        }
        owned = weigh(tile, owned, running, params.scale_factor_d512);

        // Phase 4: add the weighted V rows.
        add_rows(codebook, simd_lane, tile, owned, running);
    }

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time; store the output, still
    // rotated, or partials.
    Merge merge = {merge_max, merge_sum, merge_acc, merge_factor, merge_part, ROWS};
    join(tid, running);
    merge_put(merge, tid, running);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    merge_weigh(merge, tid);
    for (uint batch = 0; batch < GROUP; batch += MERGE_HEADS) {
        if (batch > 0u) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        for (uint h = batch; h < min(batch + MERGE_HEADS, GROUP); h++) {
            merge_put_acc(merge, tid, h, h - batch, running);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        uint heads = min(MERGE_HEADS, max(end_head, first_head + batch) - first_head - batch);
        for (uint x = tid; x < heads * (HEAD_DIM / 4u); x += WORKGROUP_SIZE) {
            uint nth = x / (HEAD_DIM / 4u);
            if (params.nwg == 1u) {
                put_output(dst, merge, first_head, batch + nth, nth, x % (HEAD_DIM / 4u));
            } else {
                put_partial(partials, merge, first_head, batch + nth, nth, x % (HEAD_DIM / 4u), split);
            }
        }
    }

    // Phase 6: the last threadgroup of the column merges the splits, rotates back and stores.
    threadgroup_barrier(mem_flags::mem_device);
    if (tid == 0u) {
        arrived = 0u;
        if (params.nwg > 1u) {
            atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device); // partials before the counter
            arrived = atomic_fetch_add_explicit(&scratch[workgroup.x], 1u, memory_order_relaxed);
            atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device); // the counter before the others' partials
        }
    }
    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    if (arrived == params.nwg - 1u) {
        if (params.nwg > 1u) {
            get_pairs(partials, merge_acc, tid, first_head, end_head);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint head = first_head; head < end_head; head += ROWS_PER_WORKGROUP) {
            uint rows = min(end_head - head, ROWS_PER_WORKGROUP);
            if (tid / MERGE_THREADS < rows) {
                if (params.nwg > 1u) {
                    merge_splits(partials, merge_acc, exchange, tid / MERGE_THREADS, tid % MERGE_THREADS, head - first_head, head);
                } else {
                    get_output(dst, exchange, tid / MERGE_THREADS, tid % MERGE_THREADS, head);
                }
            }
            threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
            if (local_row < rows) {
                store_row(dst, exchange, local_row, t, head + local_row);
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        if (tid == 0u) {
            atomic_store_explicit(&scratch[workgroup.x], 0u, memory_order_relaxed); // for the next dispatch
        }
    }
}
