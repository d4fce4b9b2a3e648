// Encodes K and V in one dispatch, each as quantize_kv does, with codes of a width of its own.
//
// A row is one token of one KV head of K (workgroup.z 0) or of V (1). A workgroup handles
// ROWS_PER_WORKGROUP rows of one of them, ROW_THREADS threads a row. Codes of a row go through
// workgroup memory and are packed a word a thread: words are written whole, and a row is whole
// words at every width, so no neighbouring row is touched.
// Contract: src/kernels/quantize_k_and_v.rs. Oracle: src/oracle/quantize_k_and_v.rs.

const K_WORDS = HEAD_DIM * K_BITS / 32u; // of a row
const V_WORDS = HEAD_DIM * V_BITS / 32u;

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
    let row = (workgroup.y * workgroups.x + workgroup.x) * ROWS_PER_WORKGROUP + local_row;
    let rows = params.num_tokens * params.num_kv_heads;
    let source = min(row, rows - 1u);
    let token = source / params.num_kv_heads;
    let kv_head = source % params.num_kv_heads;

    // Phase 1: load, sign; boundaries to workgroup memory.
    var x: array<f32, EPT>;
    if (is_k) {
        for (var m = 0u; m < EPT; m++) { // unroll
            x[m] = k[source * HEAD_DIM + t + m * ROW_THREADS];
        }
        fill_boundaries(tid, 0u, K_BITS);
    } else {
        for (var m = 0u; m < EPT; m++) { // unroll
            x[m] = v[source * HEAD_DIM + t + m * ROW_THREADS];
        }
        fill_boundaries(tid, V_BASE, V_BITS);
    }
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
    let scale = INV_SQRT_HEAD_DIM * encode_scale(norm, params.scale_factor_d512);

    // Phase 4: quantise.
    var codes: array<u32, EPT>;
    if (is_k) {
        codes = nearest_codes(x, scale, K_GUESS, K_BITS);
        put_codes(local_row, t, codes, K_BITS);
    } else {
        codes = nearest_codes(x, scale, V_GUESS, V_BITS);
        put_codes(local_row, t, codes, V_BITS);
    }
    workgroupBarrier();

    // Phase 5: with norm correction, the norm with which the decoded block is as long as this one.
    // Every thread has read the boundaries and the squares: both arrays are free.
    if (NORM_CORRECTION) {
        if (is_k) {
            fill_centroids(tid, 0u, K_BITS);
        } else {
            fill_centroids(tid, V_BASE, V_BITS);
        }
        workgroupBarrier();
        put_centroid_squares(local_row, t, codes);
        workgroupBarrier();
        let decoded = block_sum(local_row, block);
        norm = corrected_norm(norm, decoded, params.scale_factor_d512);
    }

    // Phase 6: pack and store.
    let left = params.num_tokens - token;
    let slot = slot_of(token, params.write_pos, params.cache_capacity, params.is_sliding);
    if (row >= rows || overwritten(left, params.cache_capacity, params.is_sliding)) {
        return;
    }
    let at = kv_head * params.cache_capacity + slot;
    if (is_k) {
        for (var first = 0u; first < K_WORDS; first += ROW_THREADS) { // unroll
            let w = first + t;
            if (w < K_WORDS) {
                k_packed[at * K_WORDS + w] = packed_word(local_row, w, K_BITS);
            }
        }
        if (t % BLOCK_THREADS == 0u) {
            k_norms[at * NORMS_PER_POS + block] = norm;
        }
    } else {
        for (var first = 0u; first < V_WORDS; first += ROW_THREADS) { // unroll
            let w = first + t;
            if (w < V_WORDS) {
                v_packed[at * V_WORDS + w] = packed_word(local_row, w, V_BITS);
            }
        }
        if (t % BLOCK_THREADS == 0u) {
            v_norms[at * NORMS_PER_POS + block] = norm;
        }
    }
}
