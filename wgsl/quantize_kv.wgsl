// Encodes K or V: rotate, take the norm, scale to N(0, 1), pick the nearest centroid, pack.
//
// A row is one token of one KV head. A workgroup handles ROWS_PER_WORKGROUP rows at a time, ROW_THREADS
// threads a row, and then those as many rows further on as the whole grid handles. A thread's codes
// are whole words at every width: it writes them as they are, and no neighbouring row is touched.
// Contract: src/kernels/quantize_kv.rs. Oracle: src/oracle/quantize_kv.rs.

const OWN_WORDS = EPT * BITS / 32u; // of a thread's codes

struct Params {
    head_dim: u32,
    num_kv_heads: u32,
    write_pos: u32,
    cache_capacity: u32,
    is_sliding: u32,
    scale_factor_d512: f32,
    rms_probe_enabled: u32,
    num_tokens: u32,
}

@group(0) @binding(0) var<storage, read> src: array<f32>;           // [token][kv_head][coord]
@group(0) @binding(1) var<storage, read_write> packed: array<u32>;  // [kv_head][slot][word]
@group(0) @binding(2) var<storage, read_write> norms: array<f32>;   // [kv_head][slot][block]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let t = tid % ROW_THREADS;
    let local_row = tid / ROW_THREADS;
    let block = t / BLOCK_THREADS;
    var at = first_row(workgroup.x * ROWS_PER_WORKGROUP + local_row, params.num_kv_heads);
    let step = first_row(workgroups.x * ROWS_PER_WORKGROUP, params.num_kv_heads);
    let rows = params.num_tokens * params.num_kv_heads;
    fill_table(tid, 0u, BITS);
    var x = load(at.row, rows, t);

    for (var turn = 0u; turn * step.row < rows; turn++) {
        // Phase 1: sign.
        if (SIGN_BEFORE) {
            x = apply_signs(t, x);
        }

        // Phase 2: butterflies, widest strides first, and meanwhile the next row is read. Those that
        // follow put_wide_squares stay within a block and keep its length: the norm is known before
        // they run.
        x = pass_wide(x);
        workgroupBarrier();
        put_wide(local_row, t, x);
        put_wide_squares(local_row, t, x);
        if ((turn + 1u) * step.row < rows) {
            x = load(at.row + step.row, rows, t);
        }
        workgroupBarrier();
        let near = pass_near(get_near(local_row, t));

        // Phase 3: the norm of the block this thread belongs to. Pass 1 was EPT times too long in squares.
        var norm = block_norm(block_sum(local_row, block) / f32(EPT));

        // Phase 4: quantise.
        let scale = INV_SQRT_HEAD_DIM * encode_scale(norm, params.scale_factor_d512);
        let codes = nearest_codes(near, scale, GUESS, BITS);

        // Phase 5: with norm correction, the norm with which the decoded block is as long as this one.
        if (NORM_CORRECTION) {
            workgroupBarrier();
            put_centroid_squares(local_row, t, codes);
            workgroupBarrier();
            let decoded = block_sum(local_row, block);
            norm = corrected_norm(norm, decoded, params.scale_factor_d512);
        }

        // Phase 6: pack and store.
        let left = params.num_tokens - at.token;
        if (at.row < rows && !overwritten(left, params.cache_capacity, params.is_sliding)) {
            let slot = slot_of(at.token, params.write_pos, params.cache_capacity, params.is_sliding);
            let stored = at.kv_head * params.cache_capacity + slot;
            var words = own_words(codes, BITS);
            for (var w = 0u; w < OWN_WORDS; w++) { // unroll
                packed[(stored * ROW_THREADS + t) * OWN_WORDS + w] = words[w];
            }
            if (t % BLOCK_THREADS == 0u) {
                norms[stored * NORMS_PER_POS + block] = norm;
            }
        }
        at = next_row(at, step, params.num_kv_heads);
    }
}

// A thread's wide coordinates of row `row`, or of the last one.
fn load(row: u32, rows: u32, t: u32) -> array<f32, EPT> {
    let first = min(row, rows - 1u) * HEAD_DIM + t;
    var x: array<f32, EPT>;
    for (var m = 0u; m < EPT; m++) { // unroll
        x[m] = src[first + m * ROW_THREADS];
    }
    return x;
}
