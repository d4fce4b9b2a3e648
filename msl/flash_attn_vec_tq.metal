// Decode attention of one query token over packed K and V, in the rotated basis.
//
// Threadgroup (x, y): x = KV head and part of its query heads, y = split of the visible
// positions. All GROUP query heads share one read of K and V. Phases 2 to 4 are in
// shared/attend.h, row groups in shared/attention.h.
// Contract: src/kernels/flash_attn_vec_tq.rs. Oracle: src/oracle/flash_attn_vec_tq.rs.

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
    uint tid [[thread_index_in_threadgroup]],
    uint simd_lane [[thread_index_in_simdgroup]]) {
    threadgroup float codebook[CODEBOOK_LEN];
    threadgroup float4 merge_acc[MERGE_VECTORS];
    threadgroup float merge_max[MERGE_GROUPS * GROUP_PAD];
    threadgroup float merge_factor[MERGE_GROUPS * GROUP_PAD];
    threadgroup float merge_part[MERGE_GROUPS * GROUP_PAD];
    threadgroup float merge_sum[MERGE_GROUPS * SCORES];

    uint lane = tid % LANES;
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

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time, and store.
    Merge merge = {merge_max, merge_sum, merge_acc, merge_factor, merge_part, ROWS};
    Place place = {split, params.n_heads, params.nwg};
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
            store(dst, merge, place, first_head, batch + nth, nth, x % (HEAD_DIM / 4u));
        }
    }
}
