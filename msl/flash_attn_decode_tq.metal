// Decode attention of one query token over packed K and V in one dispatch: splits are merged here, and
// q and the output are in the natural basis unless ROTATED.
//
// Threadgroup (x, y): column x = KV head and part of its query heads, y = split of the visible
// positions. Each rotates the GROUP query heads that share its read of K and V. Of a column, the
// threadgroup that finishes last merges the splits and rotates the output back. Phases 2 to 4 are in
// shared/attend.h, row groups in shared/attention.h, rotations in shared/rotate.h.
//
// Threadgroups are ordered by fences of device scope, and see each other's partials through a coherent
// argument; Metal has both since 3.2 (macOS 15).
// Contract: src/kernels/flash_attn_decode_tq.rs. Oracle: src/oracle/flash_attn_decode_tq.rs.

constant constexpr uint HEAD_VECS = HEAD_DIM / 4u;
constant constexpr uint SPLITS_AT_ONCE = 16u; // that a thread has in flight

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

struct Scratch {
    device atomic_uint *arrived;               // threadgroups of a column that are done; zero between dispatches
    coherent(device) device float4 *partials; // [head][split][coord / 4], and behind the coordinates (S, M, 0, 0)
    uint nwg;
};

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

// Index of the partials of a query head and split.
inline uint partials_at(Scratch scratch, uint head, uint split) {
    return (head * scratch.nwg + split) * (HEAD_VECS + 1u);
}

// Stores vector f of the partials of query head `first_head + h`, the `nth` of its batch.
inline void put_partial(Scratch scratch, Merge merge, uint first_head, uint h, uint nth, uint f, uint split) {
    uint at = partials_at(scratch, first_head + h, split);
    scratch.partials[at + f] = merged_acc(merge, h, nth, f);
    if (f == 0u) {
        scratch.partials[at + HEAD_VECS] = float4(merged_sum(merge, h), merged_max(merge, h), 0.0f, 0.0f);
    }
}

// A pair as the merge takes it: the maximum of nothing is no one's. A NaN must stay one.
inline float2 pair_of(float2 seen, bool exists) {
    return !exists || seen.x == 0.0f ? float2(0.0f, NO_SCORE) : seen;
}

// Vector f of the merged splits of a query head.
inline float4 merged_splits(Scratch scratch, uint head, uint f) {
    float top = NO_SCORE;
    float sum = 0.0f;
    float4 acc = float4(0.0f);
    for (uint w = 0; w < scratch.nwg; w += SPLITS_AT_ONCE) {
        float2 pairs[SPLITS_AT_ONCE];
        float4 parts[SPLITS_AT_ONCE];
        for (uint j = 0; j < SPLITS_AT_ONCE; j++) {
            uint at = partials_at(scratch, head, min(w + j, scratch.nwg - 1u));
            float4 pair = scratch.partials[at + HEAD_VECS];
            pairs[j] = pair_of(pair.xy, w + j < scratch.nwg);
            parts[j] = scratch.partials[at + f];
        }
        float before = top;
        for (uint j = 0; j < SPLITS_AT_ONCE; j++) {
            top = max(top, pairs[j].y);
        }
        float factor = precise::exp(before - top);
        sum *= factor;
        acc *= factor;
        for (uint j = 0; j < SPLITS_AT_ONCE; j++) {
            float weight = pairs[j].x == 0.0f ? 0.0f : precise::exp(pairs[j].y - top);
            sum += weight * pairs[j].x;
            acc += weight * parts[j];
        }
    }
    return sum == 0.0f ? float4(0.0f) : acc / sum;
}

// Puts vector f into row `row` of the exchange.
inline void put_merged(threadgroup float *exchange, uint row, uint f, float4 x) {
    for (uint i = 0; i < 4u; i++) {
        exchange[row * HEAD_DIM + 4u * f + i] = x[i];
    }
}

kernel void flash_attn_decode_tq(
    constant Params &params [[buffer(0)]],
    device const float4 *q [[buffer(1)]],      // [head][coord / 4]
    device const uint *k_packed [[buffer(2)]], // [kv_head][slot][word]
    device const float *k_norms [[buffer(3)]], // [kv_head][slot][block]
    device const uint *v_packed [[buffer(4)]], // [kv_head][slot][word]
    device const float *v_norms [[buffer(5)]], // [kv_head][slot][block]
    device float4 *dst [[buffer(6)]],          // [head][coord / 4]
    coherent(device) device float4 *scratch [[buffer(7)]], // COLUMNS counters, then partials
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
    Scratch between = {(device atomic_uint *)scratch, scratch + COLUMNS / 4u, params.nwg};

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
    if (!ROTATED) {
        for (uint first_row = 0; first_row < GROUP; first_row += ROWS_PER_WORKGROUP) {
            uint h = first_row + local_row;
            if (local_row < min(GROUP - first_row, ROWS_PER_WORKGROUP)) {
                rotate_row((device const float *)q, (threadgroup float *)merge_acc, h, t, min(first_head + h, end_head - 1u));
            }
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float4 query[GROUP * VECS];
    for (uint h = 0; h < GROUP; h++) {
        uint head = min(first_head + h, end_head - 1u);
        for (uint i = 0; i < VECS; i++) {
            if (ROTATED) {
                query[h * VECS + i] = q[(head * HEAD_DIM + lane * COORDS) / 4u + i];
            } else {
                query[h * VECS + i] = merge_acc[(h * HEAD_DIM + lane * COORDS) / 4u + i];
            }
        }
    }

    // A second turn only where a score was far above those of the first tile: see shared/attend.h.
    float start = sum_start(exchange_fits(tid, simd_lane));
    Running running = nothing_seen(start);
    bool again = false;
    for (uint turn = 0; turn == 0u || again; turn++) {
        if (turn == 1u) {
            Owned highest = running.owned_highest;
            running = nothing_seen(start);
            set_top(tid, simd_lane, highest, running);
            next = tile_at(cache, tid, begin, end, kv_head);
        }
        for (uint base = begin; base < end; base += TILE) {
            Tile tile = next;
            if (base + TILE < end) {
                next = tile_at(cache, tid, base + TILE, end, kv_head);
            }

            // Phase 2: scores. Each lane adds up its coordinates, owners the lanes.
            Scores scores = lane_scores(codebook, tile, query);
            Owned owned = scaled_sums(tile, block_sums(tid, scores), params.scale, params.scale_factor_d512);
            owned = visible_scores(tid, base, end, row_sums(owned), params.softcap);

            // Phase 3: scores become weights.
            if (turn == 0u && base == begin) {
                set_top(tid, simd_lane, owned, running);
            }
            owned = weigh(tile, owned, running, params.scale_factor_d512);

            // Phase 4: add the weighted V rows.
            add_rows(codebook, simd_lane, tile, owned, running);
        }
        again = turn == 0u && some_rise(running);
    }

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time; store the partials.
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
        for (uint x = tid; x < heads * HEAD_VECS; x += WORKGROUP_SIZE) {
            uint nth = x / HEAD_VECS;
            put_partial(between, merge, first_head, batch + nth, nth, x % HEAD_VECS, split);
        }
    }

    // Phase 6: the last threadgroup of the column merges the splits, rotates back and stores.
    threadgroup_barrier(mem_flags::mem_device);
    if (tid == 0u) {
        atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device); // partials before the counter
        arrived = atomic_fetch_add_explicit(&between.arrived[workgroup.x], 1u, memory_order_relaxed);
        atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device); // the counter before the others' partials
    }
    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    if (arrived == params.nwg - 1u) {
        if (ROTATED) {
            for (uint x = tid; x < (end_head - first_head) * HEAD_VECS; x += WORKGROUP_SIZE) {
                dst[first_head * HEAD_VECS + x] = merged_splits(between, first_head + x / HEAD_VECS, x % HEAD_VECS);
            }
        } else {
            for (uint head = first_head; head < end_head; head += ROWS_PER_WORKGROUP) {
                uint rows = min(end_head - head, ROWS_PER_WORKGROUP);
                for (uint x = tid; x < rows * HEAD_VECS; x += WORKGROUP_SIZE) {
                    put_merged(exchange, x / HEAD_VECS, x % HEAD_VECS, merged_splits(between, head + x / HEAD_VECS, x % HEAD_VECS));
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
                if (local_row < rows) {
                    store_row((device float *)dst, exchange, local_row, t, head + local_row);
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
            }
        }
        if (tid == 0u) {
            atomic_store_explicit(&between.arrived[workgroup.x], 0u, memory_order_relaxed); // for the next dispatch
        }
    }
}
