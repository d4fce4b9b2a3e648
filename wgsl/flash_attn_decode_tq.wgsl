// Decode attention of one query token over packed K and V in one dispatch: q and the output are in
// the natural basis, and splits are merged here.
//
// Workgroup (x, y): column x = KV head and part of its query heads, y = split of the visible
// positions. Each rotates the GROUP query heads that share its read of K and V. Of a column, the
// workgroup that finishes last merges the splits and rotates the output back. Phases 2 to 4 are in
// shared/attend.wgsl, row groups in shared/attention.wgsl, rotations in shared/rotate.wgsl.
//
// WGSL promises no order between workgroups. This needs a storageBarrier that orders accesses for
// the whole device, so the plan asks for one.
// Contract: src/kernels/flash_attn_decode_tq.rs. Oracle: src/oracle/flash_attn_decode_tq.rs.

const MERGE_THREADS = WORKGROUP_SIZE / ROWS_PER_WORKGROUP; // that merge the splits of a row
const MERGED = min(4u, max(1u, HEAD_DIM / MERGE_THREADS)); // coordinates of each, at a time
const SPLITS_AT_ONCE = 8u; // that a thread has in flight; divides MAX_SPLITS

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
@group(0) @binding(1) var<storage, read> q: array<f32>;            // [head][coord]
@group(0) @binding(2) var<storage, read> k_packed: array<KUnit>;   // [kv_head][slot][word]
@group(0) @binding(3) var<storage, read> k_norms: array<f32>;      // [kv_head][slot][block]
@group(0) @binding(4) var<storage, read> v_packed: array<VUnit>;   // [kv_head][slot][word]
@group(0) @binding(5) var<storage, read> v_norms: array<f32>;      // [kv_head][slot][block]
@group(0) @binding(6) var<storage, read_write> dst: array<f32>;    // [head][coord]
@group(0) @binding(7) var<storage, read_write> scratch: array<atomic<u32>>; // [column], then partials

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
    var query = array<vec4<f32>, GROUP * VECS>();
    for (var h = 0u; h < GROUP; h++) { // unroll
        for (var i = 0u; i < VECS; i++) { // unroll
            query[h * VECS + i] = acc_get((h * HEAD_DIM + lane * COORDS) / 4u + i);
        }
    }
    if (LOOK_UP_TABLE) { // in the memory that q was in
        workgroupBarrier();
        look_up_fill(tid);
        workgroupBarrier();
    }

    var running = nothing_seen(sum_start(exchange_fits(in)));
    // A loop with its only exit at the end: drivers then keep what it carries in place.
    if (begin < end) {
        var base = begin;
        loop {
            var tile = next;
            if (base + TILE < end) {
                next = tile_at(tid, base + TILE, end, kv_head);
            }

            // Phase 2: scores. Each lane adds up its coordinates, owners the lanes.
            let scores = lane_scores(tid, &tile, &query);
            scores_put(in, scores);
            if (EXCHANGE_BARRIER) {
                workgroupBarrier();
            }
            var owned = scaled_sums(&tile, block_sums(in, scores));
            if (NORMS_PER_POS > 1u) {
                owned_put(in, BLOCKS_ROUND, owned);
                if (EXCHANGE_BARRIER) {
                    workgroupBarrier();
                }
                owned = row_sums(in, owned);
            }
            owned = visible_scores(tid, base, end, owned);

            // Phase 3: running softmax; scores become weights.
            owned_put(in, MAXIMA_ROUND, owned);
            if (EXCHANGE_BARRIER) {
                workgroupBarrier();
            }
            if (some_rise(in, owned, running.owned_top, running.top)) {
                rescale(in, owned, &running);
            }
            owned = weigh(&tile, owned, &running);
            owned_put(in, WEIGHTS_ROUND, owned);
            if (EXCHANGE_BARRIER) {
                workgroupBarrier();
            }

            // Phase 4: add the weighted V rows.
            add_rows(in, &tile, owned, &running);

            continuing {
                base += TILE;
                break if base >= end;
            }
        }
    }

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time; store the output, still
    // rotated, or partials.
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
            if (params.nwg == 1u) {
                put_output(first_head, batch + nth, nth, x % (HEAD_DIM / 4u));
            } else {
                put_partial(first_head, batch + nth, nth, x % (HEAD_DIM / 4u), split);
            }
        }
    }

    // Phase 6: the last workgroup of the column merges the splits, rotates back and stores.
    storageBarrier(); // partials before the counter
    if (tid == 0u) {
        arrived = 0u;
        if (params.nwg > 1u) {
            arrived = atomicAdd(&scratch[workgroup.x], 1u);
        }
    }
    if (workgroupUniformLoad(&arrived) == params.nwg - 1u) {
        storageBarrier(); // the counter before the others' partials
        if (params.nwg > 1u) {
            get_pairs(tid, first_head, end_head);
        }
        workgroupBarrier();
        for (var head = first_head; head < end_head; head += ROWS_PER_WORKGROUP) {
            let rows = min(end_head - head, ROWS_PER_WORKGROUP);
            if (tid / MERGE_THREADS < rows) {
                if (params.nwg > 1u) {
                    merge_splits(tid / MERGE_THREADS, tid % MERGE_THREADS, head - first_head, head);
                } else {
                    get_output(tid / MERGE_THREADS, tid % MERGE_THREADS, head);
                }
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
        if (tid == 0u) {
            atomicStore(&scratch[workgroup.x], 0u); // for the next dispatch
        }
    }
}

// First pass of q's rotation: a query head from memory to row `row` of the exchange.
fn rotate_wide(row: u32, t: u32, head: u32) {
    var x: array<f32, EPT>;
    for (var m = 0u; m < EPT; m++) { // unroll
        x[m] = q[head * HEAD_DIM + t + m * ROW_THREADS];
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
        dst[head * HEAD_DIM + t + m * ROW_THREADS] = x[m];
    }
}

// Where coordinate c of row `row` is in the exchange.
fn exchange_at(row: u32, c: u32) -> u32 {
    return row * ROW_PITCH + c + c / EPT * THREAD_PAD;
}

// Stores vector f of the output of query head `first_head + h`, the `nth` of its batch.
fn put_output(first_head: u32, h: u32, nth: u32, f: u32) {
    let acc = merged_acc(h, nth, f);
    let sum = merged_sum(h);
    for (var i = 0u; i < 4u; i++) { // unroll
        dst[(first_head + h) * HEAD_DIM + 4u * f + i] = select(acc[i] / sum, 0.0, sum == 0.0);
    }
}

// Puts the stored output of query head `head + row`, thread u of those that share the row, into row
// `row` of the exchange.
fn get_output(row: u32, u: u32, head: u32) {
    for (var c = u; c < HEAD_DIM; c += MERGE_THREADS) {
        exchange[exchange_at(row, c)] = dst[(head + row) * HEAD_DIM + c];
    }
}

// Index in the scratch of the accumulators of a query head and split, and of its pair (S, M).
fn accs_at(head: u32, split: u32) -> u32 {
    return params.n_kv_heads * GROUPS_PER_KV + (head * params.nwg + split) * HEAD_DIM;
}
fn pair_at(head: u32, split: u32) -> u32 {
    return accs_at(params.n_heads, 0u) + (head * params.nwg + split) * 2u;
}

fn scratch_get(at: u32) -> f32 {
    return bitcast<f32>(atomicLoad(&scratch[at]));
}
fn scratch_put(at: u32, x: f32) {
    atomicStore(&scratch[at], bitcast<u32>(x));
}

// Stores vector f of the partials of query head `first_head + h`, the `nth` of its batch.
fn put_partial(first_head: u32, h: u32, nth: u32, f: u32, split: u32) {
    let acc = merged_acc(h, nth, f);
    for (var i = 0u; i < 4u; i++) { // unroll
        scratch_put(accs_at(first_head + h, split) + 4u * f + i, acc[i]);
    }
    if (f == 0u) {
        let at = pair_at(first_head + h, split);
        scratch_put(at, merged_sum(h));
        scratch_put(at + 1u, merged_max(h));
    }
}

// Reads the pairs of all splits into the merge's memory, which is free by now: (S, M, S, M) of two splits
// a vector, [head][split / 2]. Splits up to a multiple of SPLITS_AT_ONCE have seen nothing.
fn get_pairs(tid: u32, first_head: u32, end_head: u32) {
    let halves = (params.nwg + SPLITS_AT_ONCE - 1u) / SPLITS_AT_ONCE * SPLITS_AT_ONCE / 2u;
    for (var x = tid; x < GROUP * halves; x += WORKGROUP_SIZE) {
        let h = x / halves;
        let w = x % halves * 2u;
        let head = min(first_head + h, end_head - 1u);
        let even = pair_at(head, min(w, params.nwg - 1u));
        let odd = pair_at(head, min(w + 1u, params.nwg - 1u));
        let seen = vec4(scratch_get(even), scratch_get(even + 1u), scratch_get(odd), scratch_get(odd + 1u));
        let both = vec4(pair_of(seen.xy, w < params.nwg), pair_of(seen.zw, w + 1u < params.nwg));
        acc_put(h * (MAX_SPLITS / 2u) + x % halves, both);
    }
}

// A pair as the merge takes it: the maximum of nothing is no one's. A NaN must stay one, and may be
// neither equal to 0 nor unequal.
fn pair_of(seen: vec2<f32>, exists: bool) -> vec2<f32> {
    return select(seen, vec2(0.0, NO_SCORE), !exists || seen.x == 0.0);
}

// Puts the merged splits of query head `head + row`, `h + row` of the group, thread u of those that
// share the row, into row `row` of the exchange.
fn merge_splits(row: u32, u: u32, h: u32, head: u32) {
    let first = (h + row) * (MAX_SPLITS / 2u);
    var top = NO_SCORE;
    for (var w = 0u; w < params.nwg; w += 2u) {
        let two = acc_get(first + w / 2u);
        top = max(top, max(two.y, two.w));
    }
    for (var c = u; c < HEAD_DIM; c += MERGED * MERGE_THREADS) {
        var acc = array<f32, MERGED>();
        var sum = 0.0;
        for (var w = 0u; w < params.nwg; w += SPLITS_AT_ONCE) {
            var part = array<f32, SPLITS_AT_ONCE * MERGED>();
            for (var j = 0u; j < SPLITS_AT_ONCE; j++) { // unroll
                let at = accs_at(head + row, min(w + j, params.nwg - 1u)) + c;
                for (var i = 0u; i < MERGED; i++) { // unroll
                    part[j * MERGED + i] = scratch_get(at + i * MERGE_THREADS);
                }
            }
            for (var j = 0u; j < SPLITS_AT_ONCE; j++) { // unroll
                let two = acc_get(first + w / 2u + j / 2u);
                let pair = select(two.xy, two.zw, j % 2u == 1u);
                let weight = select(exp(pair.y - top), 0.0, pair.x == 0.0);
                sum += weight * pair.x;
                for (var i = 0u; i < MERGED; i++) { // unroll
                    acc[i] += weight * part[j * MERGED + i];
                }
            }
        }
        for (var i = 0u; i < MERGED; i++) { // unroll
            exchange[exchange_at(row, c + i * MERGE_THREADS)] = select(acc[i] / sum, 0.0, sum == 0.0);
        }
    }
}
