// Decode attention of one query token over dense K and V, f32 or f16 (shared/kv_f32.wgsl,
// shared/kv_f16.wgsl): the control that the packed kernel is measured against.
//
// Workgroup (x, y): x = KV head and part of its query heads, y = split of the visible
// positions. All GROUP query heads share one read of K and V. See shared/attention.wgsl for row
// groups; each handles ROWS positions at a time, so that ROWS reads are in flight.
// Contract: src/kernels/flash_attn_vec.rs. Oracle: src/oracle/flash_attn_vec.rs.

const SUM_ROWS = 1u; // sums of a query head that a row group hands to the merge

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
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;      // [head][coord / 4]
@group(0) @binding(2) var<storage, read> k: array<KvVec>;          // [kv_head][slot][coord / 4]
@group(0) @binding(3) var<storage, read> v: array<KvVec>;          // [kv_head][slot][coord / 4]
@group(0) @binding(4) var<storage, read_write> dst: array<vec2<f32>>; // [head][coord / 2], or partials

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
) {
    let lane = tid % LANES;
    let row_group = tid / LANES;
    let kv_head = workgroup.x / GROUPS_PER_KV;
    let first_head = kv_head * GQA + (workgroup.x % GROUPS_PER_KV) * GROUP;
    let end_head = min(first_head + GROUP, (kv_head + 1u) * GQA);
    let split = workgroup.y;

    // Phase 1: q to registers.
    var query = array<vec4<f32>, GROUP * VECS>();
    for (var h = 0u; h < GROUP; h++) { // unroll
        let head = min(first_head + h, end_head - 1u);
        for (var i = 0u; i < VECS; i++) { // unroll
            query[h * VECS + i] = q[(head * HEAD_DIM + lane * COORDS) / 4u + i];
        }
    }

    // The positions of this split: an equal contiguous part of the visible ones.
    let first = first_visible(params.kv_seq_len, params.mask_type, params.sliding_window);
    let span = (params.kv_seq_len - first + params.nwg - 1u) / params.nwg;
    let begin = min(first + split * span, params.kv_seq_len);
    let end = min(begin + span, params.kv_seq_len);

    let start = sum_start(row_sum_fits(tid));
    var top = array<f32, GROUP>();
    var sum = array<f32, GROUP>();
    var acc = array<vec4<f32>, GROUP * VECS>();
    for (var h = 0u; h < GROUP; h++) { // unroll
        top[h] = NO_SCORE;
        sum[h] = start;
        for (var i = 0u; i < VECS; i++) { // unroll
            acc[h * VECS + i] = vec4(start);
        }
    }

    for (var base = begin; base < end; base += ROW_GROUPS * ROWS) {
        // Phase 2: scores. Rows past the end repeat the last one and get no weight.
        var rows = array<u32, ROWS>();
        var scores = array<f32, ROWS * GROUP>();
        for (var r = 0u; r < ROWS; r++) { // unroll
            let i = min(base + r * ROW_GROUPS + row_group, end - 1u);
            let row = kv_head * params.kv_capacity + ring_slot(i, params.ring_start, params.kv_capacity);
            rows[r] = row;
            for (var c = 0u; c < VECS; c++) { // unroll
                let x = widen(k[(row * HEAD_DIM + lane * COORDS) / 4u + c]);
                for (var h = 0u; h < GROUP; h++) { // unroll
                    scores[r * GROUP + h] += dot(x, query[h * VECS + c]);
                }
            }
            for (var h = 0u; h < GROUP; h++) { // unroll
                scores[r * GROUP + h] *= params.scale;
                row_sum_put(tid, r * GROUP + h, scores[r * GROUP + h]);
            }
        }
        if (ROW_SUM_BARRIER) {
            workgroupBarrier();
        }
        for (var i = 0u; i < ROWS * GROUP; i++) { // unroll
            scores[i] = soften(row_sum_get(tid, i, scores[i]), params.softcap);
        }
        if (ROW_SUM_BARRIER) {
            workgroupBarrier();
        }

        // Phase 3: running softmax; scores become weights.
        for (var h = 0u; h < GROUP; h++) { // unroll
            var new_top = top[h];
            for (var r = 0u; r < ROWS; r++) { // unroll
                let visible = base + r * ROW_GROUPS + row_group < end;
                new_top = max(new_top, select(NO_SCORE, scores[r * GROUP + h], visible));
            }
            let rescale = exp(top[h] - new_top);
            top[h] = new_top;
            sum[h] *= rescale;
            for (var i = 0u; i < VECS; i++) { // unroll
                acc[h * VECS + i] *= rescale;
            }
            for (var r = 0u; r < ROWS; r++) { // unroll
                let visible = base + r * ROW_GROUPS + row_group < end;
                let weight = select(0.0, exp(scores[r * GROUP + h] - new_top), visible);
                sum[h] += weight;
                scores[r * GROUP + h] = weight;
            }
        }

        // Phase 4: add the weighted V rows.
        for (var r = 0u; r < ROWS; r++) { // unroll
            for (var c = 0u; c < VECS; c++) { // unroll
                let x = widen(v[(rows[r] * HEAD_DIM + lane * COORDS) / 4u + c]);
                for (var h = 0u; h < GROUP; h++) { // unroll
                    acc[h * VECS + c] += scores[r * GROUP + h] * x;
                }
            }
        }
    }

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time, and store.
    if (lane == 0u) {
        for (var h = 0u; h < GROUP; h++) { // unroll
            merge_max[row_group * GROUP_PAD + h] = top[h];
            merge_sum[row_group * GROUP_PAD + h] = sum[h];
        }
    }
    workgroupBarrier();
    merge_weigh(tid);
    for (var batch = 0u; batch < GROUP; batch += MERGE_HEADS) { // unroll
        if (batch > 0u) {
            workgroupBarrier();
        }
        for (var h = batch; h < min(batch + MERGE_HEADS, GROUP); h++) { // unroll
            for (var i = 0u; i < VECS; i++) { // unroll
                let at = (row_group * MERGE_HEADS + h - batch) * HEAD_DIM + lane * COORDS;
                acc_put(at / 4u + i, acc[h * VECS + i]);
            }
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
