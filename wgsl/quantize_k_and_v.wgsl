// Encodes K and V in one dispatch, each as quantize_kv does, with codes of a width of its own.
//
// A row is one token of one KV head of K (workgroup.z 0) or of V (1). A workgroup handles
// ROWS_PER_WORKGROUP rows of one of them at a time, ROW_THREADS threads a row, and then those as many
// rows further on as the whole grid handles. A thread's codes are whole words at every width: it
// writes them as they are, and no neighbouring row is touched.
// Contract: src/kernels/quantize_k_and_v.rs. Oracle: src/oracle/quantize_k_and_v.rs.

const K_WORDS = EPT * K_BITS / 32u; // of a thread's codes
const V_WORDS = EPT * V_BITS / 32u;

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

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<f32>;               // [token][kv_head][coord]
@group(0) @binding(2) var<storage, read> v: array<f32>;               // [token][kv_head][coord]
@group(0) @binding(3) var<storage, read_write> k_packed: array<u32>;  // [kv_head][slot][word]
@group(0) @binding(4) var<storage, read_write> k_norms: array<f32>;   // [kv_head][slot][block]
@group(0) @binding(5) var<storage, read_write> v_packed: array<u32>;  // [kv_head][slot][word]
@group(0) @binding(6) var<storage, read_write> v_norms: array<f32>;   // [kv_head][slot][block]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let is_k = workgroup.z == 0u;
    let t = tid % ROW_THREADS;
    let local_row = tid / ROW_THREADS;
    let block = t / BLOCK_THREADS;
    var at = first_row(workgroup.x * ROWS_PER_WORKGROUP + local_row, params.num_kv_heads);
    let step = first_row(workgroups.x * ROWS_PER_WORKGROUP, params.num_kv_heads);
    let rows = params.num_tokens * params.num_kv_heads;
    if (is_k) {
        fill_table(tid, 0u, K_BITS);
    } else {
        fill_table(tid, V_BASE, V_BITS);
    }
    var x = load(is_k, at.row, rows, t);

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
            x = load(is_k, at.row + step.row, rows, t);
        }
        workgroupBarrier();
        let near = pass_near(get_near(local_row, t));

        // Phase 3: the norm of the block this thread belongs to. Pass 1 was EPT times too long in squares.
        var norm = block_norm(block_sum(local_row, block) / f32(EPT));

        // Phase 4: quantise.
        let scale = INV_SQRT_HEAD_DIM * encode_scale(norm, params.scale_factor_d512);
        var codes: array<u32, EPT>;
        if (is_k) {
            codes = nearest_codes(near, scale, K_GUESS, K_BITS);
        } else {
            codes = nearest_codes(near, scale, V_GUESS, V_BITS);
        }

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
            if (is_k) {
                var words = own_words(codes, K_BITS);
                for (var w = 0u; w < K_WORDS; w++) { // unroll
                    k_packed[(stored * ROW_THREADS + t) * K_WORDS + w] = words[w];
                }
                if (t % BLOCK_THREADS == 0u) {
                    k_norms[stored * NORMS_PER_POS + block] = norm;
                }
            } else {
                var words = own_words(codes, V_BITS);
                for (var w = 0u; w < V_WORDS; w++) { // unroll
                    v_packed[(stored * ROW_THREADS + t) * V_WORDS + w] = words[w];
                }
                if (t % BLOCK_THREADS == 0u) {
                    v_norms[stored * NORMS_PER_POS + block] = norm;
                }
            }
        }
        at = next_row(at, step, params.num_kv_heads);
    }
}

// A thread's wide coordinates of row `row` of K or V, or of the last one.
fn load(is_k: bool, row: u32, rows: u32, t: u32) -> array<f32, EPT> {
    let first = min(row, rows - 1u) * HEAD_DIM + t;
    var x: array<f32, EPT>;
    if (is_k) {
        for (var m = 0u; m < EPT; m++) { // unroll
            x[m] = k[first + m * ROW_THREADS];
        }
    } else {
        for (var m = 0u; m < EPT; m++) { // unroll
            x[m] = v[first + m * ROW_THREADS];
        }
    }
    return x;
}
