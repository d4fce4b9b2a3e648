// Decode attention of one query token over dense K and V, f32 or f16 (shared/kv_f32.wgsl,
// shared/kv_f16.wgsl): the control that the packed kernel is measured against.
//
// Workgroup (x, y): x = KV head and part of its query heads, y = split of the visible
// positions. All GROUP query heads share one read of K and V. See shared/attention.wgsl for row
// groups; each handles ROWS positions at a time, so that ROWS reads are in flight.
// Contract: src/kernels/flash_attn_vec.rs. Oracle: src/oracle/flash_attn_vec.rs.

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
@group(0) @binding(4) var<storage, read_write> dst: array<f32>;    // [head][coord], or partials

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
    for (var h = 0u; h < GROUP; h++) {
        let head = min(first_head + h, end_head - 1u);
        for (var i = 0u; i < VECS; i++) {
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
    for (var h = 0u; h < GROUP; h++) {
        top[h] = NO_SCORE;
        sum[h] = start;
        for (var i = 0u; i < VECS; i++) {
            acc[h * VECS + i] = vec4(start);
        }
    }

    for (var base = begin; base < end; base += ROW_GROUPS * ROWS) {
        // Phase 2: scores. Rows past the end repeat the last one and get no weight.
        var rows = array<u32, ROWS>();
        var scores = array<f32, ROWS * GROUP>();
        for (var r = 0u; r < ROWS; r++) {
            let i = min(base + r * ROW_GROUPS + row_group, end - 1u);
            let row = kv_head * params.kv_capacity + ring_slot(i, params.ring_start, params.kv_capacity);
            rows[r] = row;
            for (var c = 0u; c < VECS; c++) {
                let x = widen(k[(row * HEAD_DIM + lane * COORDS) / 4u + c]);
                for (var h = 0u; h < GROUP; h++) {
                    scores[r * GROUP + h] += dot(x, query[h * VECS + c]);
                }
            }
            for (var h = 0u; h < GROUP; h++) {
                scores[r * GROUP + h] *= params.scale;
                row_sum_put(tid, r * GROUP + h, scores[r * GROUP + h]);
            }
        }
        if (ROW_SUM_BARRIER) {
            workgroupBarrier();
        }
        for (var i = 0u; i < ROWS * GROUP; i++) {
            scores[i] = soften(row_sum_get(tid, i, scores[i]), params.softcap);
        }
        if (ROW_SUM_BARRIER) {
            workgroupBarrier();
        }

        // Phase 3: running softmax; scores become weights.
        for (var h = 0u; h < GROUP; h++) {
            var new_top = top[h];
            for (var r = 0u; r < ROWS; r++) {
                let visible = base + r * ROW_GROUPS + row_group < end;
                new_top = max(new_top, select(NO_SCORE, scores[r * GROUP + h], visible));
            }
            let rescale = exp(top[h] - new_top);
            top[h] = new_top;
            sum[h] *= rescale;
            for (var i = 0u; i < VECS; i++) {
                acc[h * VECS + i] *= rescale;
            }
            for (var r = 0u; r < ROWS; r++) {
                let visible = base + r * ROW_GROUPS + row_group < end;
                let weight = select(0.0, exp(scores[r * GROUP + h] - new_top), visible);
                sum[h] += weight;
                scores[r * GROUP + h] = weight;
            }
        }

        // Phase 4: add the weighted V rows.
        for (var r = 0u; r < ROWS; r++) {
            for (var c = 0u; c < VECS; c++) {
                let x = widen(v[(rows[r] * HEAD_DIM + lane * COORDS) / 4u + c]);
                for (var h = 0u; h < GROUP; h++) {
                    acc[h * VECS + c] += scores[r * GROUP + h] * x;
                }
            }
        }
    }

    // Phase 5: merge the row groups, one query head at a time, and store. Two barriers a head are
    // enough: each array is read between one pair of barriers and written between the other.
    for (var h = 0u; h < GROUP; h++) {
        if (lane == 0u) {
            merge_max[row_group] = top[h];
            merge_sum[row_group] = sum[h];
        }
        workgroupBarrier();
        let all_top = merged_max();
        let all_sum = merged_sum(all_top);
        let factor = exp(top[h] - all_top);
        for (var i = 0u; i < VECS; i++) {
            for (var c = 0u; c < 4u; c++) {
                merge_acc[row_group * HEAD_DIM + lane * COORDS + i * 4u + c] = acc[h * VECS + i][c] * factor;
            }
        }
        workgroupBarrier();
        let head = first_head + h;
        if (head < end_head) {
            for (var c = tid; c < HEAD_DIM; c += WORKGROUP_SIZE) {
                let value = merged_acc(c);
                if (params.nwg == 1u) {
                    dst[head * HEAD_DIM + c] = select(value / all_sum, 0.0, all_sum == 0.0);
                } else {
                    dst[partial_at(head, c, split, params.nwg)] = value;
                }
            }
            if (params.nwg > 1u && tid == 0u) {
                let at = partial_pair_at(params.n_heads, head, split, params.nwg);
                dst[at] = all_sum;
                dst[at + 1u] = all_top;
            }
        }
    }
}
