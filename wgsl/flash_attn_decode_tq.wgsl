// Decode attention of one query token over packed K and V in one dispatch: splits are merged here, and
// q and the output are in the natural basis unless ROTATED.
//
// Workgroup (x, y): column x = KV head and part of its query heads, y = split of the visible
// positions. Each rotates the GROUP query heads that share its read of K and V. Of a column, the
// workgroup that finishes last merges the splits and rotates the output back. Phases 2 to 4 are in
// shared/attend.wgsl, row groups in shared/attention.wgsl, rotations in shared/rotate.wgsl.
//
// WGSL promises no order between workgroups. This needs a storageBarrier that orders accesses for
// the whole device, and storage that all of it sees alike (@coherent), so the plan asks for both.
// Contract: src/kernels/flash_attn_decode_tq.rs. Oracle: src/oracle/flash_attn_decode_tq.rs.

const HEAD_VECS = HEAD_DIM / 4u;
const SPLITS_AT_ONCE = 16u; // that a thread has in flight

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

struct Scratch {
    arrived: array<atomic<u32>, COLUMNS>, // workgroups of a column that are done; zero between dispatches
    partials: array<vec4<f32>>, // [head][split][coord / 4], and behind the coordinates (S, M, 0, 0)
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;      // [head][coord / 4]
@group(0) @binding(2) var<storage, read> k_packed: array<KUnit>;   // [kv_head][slot][word]
@group(0) @binding(3) var<storage, read> k_norms: array<f32>;      // [kv_head][slot][block]
@group(0) @binding(4) var<storage, read> v_packed: array<VUnit>;   // [kv_head][slot][word]
@group(0) @binding(5) var<storage, read> v_norms: array<f32>;      // [kv_head][slot][block]
@group(0) @binding(6) var<storage, read_write> dst: array<vec4<f32>>; // [head][coord / 4]
@group(0) @binding(7) @coherent var<storage, read_write> scratch: Scratch;

var<workgroup> arrived: u32; // workgroups of the column that were done before this one

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
    let t = tid % ROW_THREADS; // of a row that is being rotated
    let local_row = tid / ROW_THREADS;

    // The positions of this split: an equal contiguous part of the visible ones.
    let first = first_visible(params.kv_seq_len, params.mask_type, params.sliding_window);
    let span = (params.kv_seq_len - first + params.nwg - 1u) / params.nwg;
    let begin = min(first + split * span, params.kv_seq_len);
    let end = min(begin + span, params.kv_seq_len);

    // Phase 1: first tile to registers, codebook to workgroup memory, q rotated and to registers.
    var next = Tile();
    if (begin < end) {
        next = tile_at(tid, begin, end, kv_head);
    }
    codebook_fill(tid);
    if (!ROTATED) {
        for (var first_row = 0u; first_row < GROUP; first_row += ROWS_PER_WORKGROUP) {
            if (local_row < ROWS_PER_WORKGROUP) {
                rotate_wide(local_row, t, min(first_head + first_row + local_row, end_head - 1u));
            }
            workgroupBarrier();
            if (local_row < min(GROUP - first_row, ROWS_PER_WORKGROUP)) {
                rotate_near(local_row, t, first_row + local_row);
            }
            workgroupBarrier();
        }
    }
    var query = array<vec4<f32>, GROUP * VECS>();
    for (var h = 0u; h < GROUP; h++) { // unroll
        let head = min(first_head + h, end_head - 1u);
        for (var i = 0u; i < VECS; i++) { // unroll
            if (ROTATED) {
                query[h * VECS + i] = q[(head * HEAD_DIM + lane * COORDS) / 4u + i];
            } else {
                query[h * VECS + i] = acc_get((h * HEAD_DIM + lane * COORDS) / 4u + i);
            }
        }
    }
    if (ROTATED || LOOK_UP_TABLE) { // the codebook is there, and every lane has its q
        workgroupBarrier();
    }
    if (LOOK_UP_TABLE) { // in the memory that q was in
        look_up_fill(tid);
        workgroupBarrier();
    }

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

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time; store the partials.
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
        for (var x = tid; x < heads * HEAD_VECS; x += WORKGROUP_SIZE) {
            let nth = x / HEAD_VECS;
            put_partial(first_head, batch + nth, nth, x % HEAD_VECS, split);
        }
    }

    // Phase 6: the last workgroup of the column merges the splits, rotates back and stores.
    storageBarrier(); // partials before the counter
    if (tid == 0u) {
        arrived = atomicAdd(&scratch.arrived[workgroup.x], 1u);
    }
    if (workgroupUniformLoad(&arrived) == params.nwg - 1u) {
        storageBarrier(); // the counter before the others' partials
        if (ROTATED) {
            for (var x = tid; x < (end_head - first_head) * HEAD_VECS; x += WORKGROUP_SIZE) {
                dst[first_head * HEAD_VECS + x] = merged_splits(first_head + x / HEAD_VECS, x % HEAD_VECS);
            }
        } else {
            for (var head = first_head; head < end_head; head += ROWS_PER_WORKGROUP) {
                let rows = min(end_head - head, ROWS_PER_WORKGROUP);
                for (var x = tid; x < rows * HEAD_VECS; x += WORKGROUP_SIZE) {
                    put_merged(x / HEAD_VECS, x % HEAD_VECS, merged_splits(head + x / HEAD_VECS, x % HEAD_VECS));
                }
                workgroupBarrier();
                if (local_row < rows) {
                    put_near(local_row, t, pass_near(get_near(local_row, t)));
                }
                workgroupBarrier();
                if (local_row < rows) {
                    store_wide(local_row, t, head + local_row);
                }
                workgroupBarrier();
            }
        }
        if (tid == 0u) {
            atomicStore(&scratch.arrived[workgroup.x], 0u); // for the next dispatch
        }
    }
}

// First pass of q's rotation: a query head from memory to row `row` of the exchange.
fn rotate_wide(row: u32, t: u32, head: u32) {
    var x: array<f32, EPT>;
    for (var m = 0u; m < EPT; m++) { // unroll
        x[m] = q[(head * HEAD_DIM + t + m * ROW_THREADS) / 4u][t % 4u];
    }
    if (SIGN_BEFORE) {
        x = apply_signs(t, x);
    }
    put_wide(row, t, pass_wide(x));
}

// Second pass: from row `row` of the exchange to the merge's memory, which nobody uses yet, as row `h`.
fn rotate_near(row: u32, t: u32, h: u32) {
    var x = scaled(pass_near(get_near(row, t)), INV_SQRT_HEAD_DIM);
    for (var m = 0u; m < EPT; m += 4u) { // unroll
        acc_put((h * HEAD_DIM + t * EPT + m) / 4u, vec4(x[m], x[m + 1u], x[m + 2u], x[m + 3u]));
    }
}

// Last pass of the rotation back: row `row` of the exchange to the output of a query head.
fn store_wide(row: u32, t: u32, head: u32) {
    var x = scaled(pass_wide(get_wide(row, t)), INV_SQRT_HEAD_DIM);
    if (SIGN_AFTER) {
        x = apply_signs(t, x);
    }
    for (var m = 0u; m < EPT; m++) { // unroll
        dst[(head * HEAD_DIM + t + m * ROW_THREADS) / 4u][t % 4u] = x[m];
    }
}

// Where coordinate c of row `row` is in the exchange.
fn exchange_at(row: u32, c: u32) -> u32 {
    return row * ROW_PITCH + c + c / EPT * THREAD_PAD;
}

// Index of the partials of a query head and split.
fn partials_at(head: u32, split: u32) -> u32 {
    return (head * params.nwg + split) * (HEAD_VECS + 1u);
}

// Stores vector f of the partials of query head `first_head + h`, the `nth` of its batch.
fn put_partial(first_head: u32, h: u32, nth: u32, f: u32, split: u32) {
    let at = partials_at(first_head + h, split);
    scratch.partials[at + f] = merged_acc(h, nth, f);
    if (f == 0u) {
        scratch.partials[at + HEAD_VECS] = vec4(merged_sum(h), merged_max(h), 0.0, 0.0);
    }
}

// Vector f of the merged splits of a query head.
fn merged_splits(head: u32, f: u32) -> vec4<f32> {
    var top = NO_SCORE;
    var sum = 0.0;
    var acc = vec4(0.0);
    for (var w = 0u; w < params.nwg; w += SPLITS_AT_ONCE) {
        var pairs = array<vec2<f32>, SPLITS_AT_ONCE>();
        var parts = array<vec4<f32>, SPLITS_AT_ONCE>();
        for (var j = 0u; j < SPLITS_AT_ONCE; j++) { // unroll
            let at = partials_at(head, min(w + j, params.nwg - 1u));
            pairs[j] = pair_of(scratch.partials[at + HEAD_VECS].xy, w + j < params.nwg);
            parts[j] = scratch.partials[at + f];
        }
        let before = top;
        for (var j = 0u; j < SPLITS_AT_ONCE; j++) { // unroll
            top = max(top, pairs[j].y);
        }
        let factor = exp(before - top);
        sum *= factor;
        acc *= factor;
        for (var j = 0u; j < SPLITS_AT_ONCE; j++) { // unroll
            let weight = select(exp(pairs[j].y - top), 0.0, pairs[j].x == 0.0);
            sum += weight * pairs[j].x;
            acc += weight * parts[j];
        }
    }
    return select(acc / sum, vec4(0.0), sum == 0.0);
}

// Puts vector f into row `row` of the exchange.
fn put_merged(row: u32, f: u32, x: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) { // unroll
        exchange[exchange_at(row, 4u * f + i)] = x[i];
    }
}

// A pair as the merge takes it: the maximum of nothing is no one's. A NaN must stay one, and may be
// neither equal to 0 nor unequal.
fn pair_of(seen: vec2<f32>, exists: bool) -> vec2<f32> {
    return select(seen, vec2(0.0, NO_SCORE), !exists || seen.x == 0.0);
}
