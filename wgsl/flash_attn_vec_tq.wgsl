// Decode attention of one query token over packed K and V, in the rotated basis.
//
// Workgroup (x, y): x = KV head and part of its query heads, y = split of the visible
// positions. All GROUP query heads share one read of K and V. Phases 2 to 4 are in
// shared/attend.wgsl, row groups in shared/attention.wgsl.
// Contract: src/kernels/flash_attn_vec_tq.rs. Oracle: src/oracle/flash_attn_vec_tq.rs.

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    kv_seq_len: u32,
    kv_capacity: u32,
    scale: f32,
    mask_type: u32,
    sliding_window: u32,
    softcap: f32,
    nwg: u32,
    ring_start: u32,
    scale_factor_d512: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;      // [head][coord / 4], rotated
@group(0) @binding(2) var<storage, read> k_packed: array<KUnit>;   // [kv_head][slot][word]
@group(0) @binding(3) var<storage, read> k_norms: array<f32>;      // [kv_head][slot][block]
@group(0) @binding(4) var<storage, read> v_packed: array<VUnit>;   // [kv_head][slot][word]
@group(0) @binding(5) var<storage, read> v_norms: array<f32>;      // [kv_head][slot][block]
@group(0) @binding(6) var<storage, read_write> dst: array<vec2<f32>>; // [head][coord / 2], or partials

// Row of K and V of a position; rows past the end repeat the last one.
fn row_at(position: u32, end: u32, kv_head: u32) -> u32 {
    let slot = ring_slot(min(position, end - 1u), params.ring_start, params.kv_capacity);
    return kv_head * params.kv_capacity + slot;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
) {
    let in = invocation(tid);
    let lane = tid % LANES;
    let kv_head = workgroup.x / GROUPS_PER_KV;
    let first_head = kv_head * GQA + (workgroup.x % GROUPS_PER_KV) * GROUP;
    let end_head = min(first_head + GROUP, (kv_head + 1u) * GQA);
    let split = workgroup.y;

    // The positions of this split: an equal contiguous part of the visible ones.
    let first = first_visible(params.kv_seq_len, params.mask_type, params.sliding_window);
    let span = (params.kv_seq_len - first + params.nwg - 1u) / params.nwg;
    let begin = min(first + split * span, params.kv_seq_len);
    let end = min(begin + span, params.kv_seq_len);

    // Phase 1: first tile and q to registers, codebook to workgroup memory.
    var next = Tile();
    if (begin < end) {
        next = tile_at(tid, begin, end, kv_head);
    }
    var query = array<vec4<f32>, GROUP * VECS>();
    for (var h = 0u; h < GROUP; h++) { // unroll
        let head = min(first_head + h, end_head - 1u);
        for (var i = 0u; i < VECS; i++) { // unroll
            query[h * VECS + i] = q[(head * HEAD_DIM + lane * COORDS) / 4u + i];
        }
    }
    codebook_fill(tid);
    for (var b = 0u; b < FILL_BARRIERS; b++) { // unroll
        workgroupBarrier();
    }
    look_up_fill(tid);
    workgroupBarrier();

    // A second turn only where a score was far above those of the first tile: see shared/attend.wgsl.
    // Written out, so that drivers have a loop for each and the first carries nothing to the second. The
    // loop has its only exit at the end: drivers then keep what it carries in place.
    let start = sum_start(exchange_fits(in));
    var running = nothing_seen(start);
    var again = false;
    for (var turn = 0u; turn < 2u; turn++) { // unroll
        if (begin < end && (turn == 0u || again)) {
            if (turn == 1u) {
                let highest = running.owned_highest;
                running = nothing_seen(start);
                set_top(in, highest, &running);
                next = tile_at(tid, begin, end, kv_head);
            }
            var base = begin;
            loop {
                var tile = next;
                if (base + TILE < end) {
                    next = tile_at(tid, base + TILE, end, kv_head);
                }

                // Phase 2: scores. Each lane adds up its coordinates, owners the lanes.
                let scores = lane_scores(tid, &tile, &query);
                scores_put(in, scores);
                for (var b = 0u; b < EXCHANGE_BARRIERS; b++) { // unroll
                    workgroupBarrier();
                }
                var owned = scaled_sums(&tile, block_sums(in, scores));
                if (NORMS_PER_POS > 1u) {
                    owned_put(in, BLOCKS_ROUND, owned);
                    for (var b = 0u; b < EXCHANGE_BARRIERS; b++) { // unroll
                        workgroupBarrier();
                    }
                    owned = row_sums(in, owned);
                }
                owned = visible_scores(tid, base, end, owned);

                // Phase 3: scores become weights.
                if (turn == 0u && base == begin) {
                    owned_put(in, MAXIMA_ROUND, owned);
                    for (var b = 0u; b < EXCHANGE_BARRIERS; b++) { // unroll
                        workgroupBarrier();
                    }
                    set_top(in, owned, &running);
                }
                owned = weigh(&tile, owned, &running);
                owned_put(in, WEIGHTS_ROUND, owned);
                for (var b = 0u; b < EXCHANGE_BARRIERS; b++) { // unroll
                    workgroupBarrier();
                }

                // Phase 4: add the weighted V rows.
                add_rows(in, &tile, owned, &running);

                continuing {
                    base += TILE;
                    break if base >= end;
                }
            }
            if (turn == 0u) {
                owned_put(in, MAXIMA_ROUND, running.owned_highest);
                for (var b = 0u; b < EXCHANGE_BARRIERS; b++) { // unroll
                    workgroupBarrier();
                }
                again = some_rise(in, &running);
            }
        }
    }

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time, and store.
    join(in, &running);
    merge_put(tid, &running);
    workgroupBarrier();
    merge_weigh(tid);
    for (var batch = 0u; batch < GROUP; batch += MERGE_HEADS) { // unroll
        if (batch > 0u) {
            workgroupBarrier();
        }
        for (var h = batch; h < min(batch + MERGE_HEADS, GROUP); h++) { // unroll
            merge_put_acc(tid, h, h - batch, &running);
        }
        workgroupBarrier();
        let heads = min(MERGE_HEADS, max(end_head, first_head + batch) - first_head - batch);
        for (var x = tid; x < heads * (HEAD_DIM / 4u); x += WORKGROUP_SIZE) {
            let nth = x / (HEAD_DIM / 4u);
            store(first_head, batch + nth, nth, x % (HEAD_DIM / 4u), split);
        }
    }
}

// Stores vector f of the output of query head `first_head + h`, the `nth` of its batch, or of its
// partials with their pair.
fn store(first_head: u32, h: u32, nth: u32, f: u32, split: u32) {
    let acc = merged_acc(h, nth, f);
    let head = first_head + h;
    if (params.nwg == 1u) {
        let sum = merged_sum(h);
        let out = select(acc / sum, vec4(0.0), sum == 0.0);
        let at = head * (HEAD_DIM / 2u) + 2u * f;
        dst[at] = out.xy;
        dst[at + 1u] = out.zw;
        return;
    }
    let at = partial_at(head, 4u * f, split, params.nwg) / 2u;
    dst[at] = acc.xy;
    dst[at + 1u] = acc.zw;
    if (f == 0u) {
        let pair = partial_pair_at(params.n_heads, head, split, params.nwg) / 2u;
        dst[pair] = vec2(merged_sum(h), merged_max(h));
    }
}
