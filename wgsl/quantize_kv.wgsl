// Encodes K or V: rotate, take the norm, scale to N(0, 1), pick the nearest centroid, pack.
//
// A row is one token of one KV head. A workgroup handles ROWS_PER_WORKGROUP rows, ROW_THREADS
// threads a row. Codes of a row go through workgroup memory and are packed a word a thread: words
// are written whole, and a row is whole words at every width, so no neighbouring row is touched.
// Contract: src/kernels/quantize_kv.rs. Oracle: src/oracle/quantize_kv.rs.

const ROW_WORDS = HEAD_DIM * BITS / 32u;

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
    let row = (workgroup.y * workgroups.x + workgroup.x) * ROWS_PER_WORKGROUP + local_row;
    let rows = params.num_tokens * params.num_kv_heads;
    let source = min(row, rows - 1u);
    let token = source / params.num_kv_heads;
    let kv_head = source % params.num_kv_heads;

    // Phase 1: load, sign; boundaries to workgroup memory.
    var x: array<f32, EPT>;
    for (var m = 0u; m < EPT; m++) { // unroll
        x[m] = src[source * HEAD_DIM + t + m * ROW_THREADS];
    }
    fill_boundaries(tid, 0u, BITS);
    if (SIGN_BEFORE) {
        x = apply_signs(t, x);
    }

    // Phase 2: butterflies, widest strides first. Those that follow put_wide_squares stay within a
    // block and keep its length: the norm is known before they run.
    x = pass_wide(x);
    put_wide(local_row, t, x);
    put_wide_squares(local_row, t, x);
    workgroupBarrier();
    x = pass_near(get_near(local_row, t));

    // Phase 3: the norm of the block this thread belongs to. Pass 1 was EPT times too long in squares.
    let block = t / BLOCK_THREADS;
    var norm = block_norm(block_sum(local_row, block) / f32(EPT));

    // Phase 4: quantise.
    let scale = INV_SQRT_HEAD_DIM * encode_scale(norm, params.scale_factor_d512);
    let codes = nearest_codes(x, scale, GUESS, BITS);
    put_codes(local_row, t, codes, BITS);
    workgroupBarrier();

    // Phase 5: with norm correction, the norm with which the decoded block is as long as this one.
    // Every thread has read the boundaries and the squares: both arrays are free.
    if (NORM_CORRECTION) {
        fill_centroids(tid, 0u, BITS);
        workgroupBarrier();
        put_centroid_squares(local_row, t, codes);
        workgroupBarrier();
        let decoded = block_sum(local_row, block);
        norm = corrected_norm(norm, decoded, params.scale_factor_d512);
    }

    // Phase 6: pack and store.
    let left = params.num_tokens - token;
    let slot = slot_of(token, params.write_pos, params.cache_capacity, params.is_sliding);
    if (row < rows && !overwritten(left, params.cache_capacity, params.is_sliding)) {
        let at = kv_head * params.cache_capacity + slot;
        for (var first = 0u; first < ROW_WORDS; first += ROW_THREADS) { // unroll
            let w = first + t;
            if (w < ROW_WORDS) {
                packed[at * ROW_WORDS + w] = packed_word(local_row, w, BITS);
            }
        }
        if (t % BLOCK_THREADS == 0u) {
            norms[at * NORMS_PER_POS + block] = norm;
        }
    }
}
