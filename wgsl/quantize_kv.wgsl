// Encodes K or V: rotate, take the norm, scale to N(0, 1), pick the nearest centroid, pack.
//
// A row is one token of one KV head. A workgroup handles ROWS_PER_WORKGROUP rows, HEAD_DIM / 8
// threads a row. Codes of a row go through workgroup memory and are packed a word a thread: words
// are written whole, and a row is whole words at every width, so no neighbouring row is touched.
// Contract: src/kernels/quantize_kv.rs. Oracle: src/oracle/quantize_kv.rs.

const ROW_WORDS = HEAD_DIM * BITS / 32u;
const BLOCK_THREADS = ROW_THREADS / NORMS_PER_POS; // threads whose coordinates share a norm
const BLOCK_DIM = f32(HEAD_DIM / NORMS_PER_POS);   // those coordinates

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

var<workgroup> table: array<f32, 1u << BITS>; // boundaries; for the norm correction then centroids
var<workgroup> squares: array<f32, WORKGROUP_SIZE>;
var<workgroup> codes: array<u32, ROWS_PER_WORKGROUP * HEAD_DIM>; // [row][coord]

// Index of the nearest centroid: binary search among the boundaries, ties to the lower index.
fn nearest(z: f32) -> u32 {
    var code = 0u;
    for (var step = 1u << (BITS - 1u); step > 0u; step >>= 1u) {
        code += select(0u, step, z > table[code + step - 1u]);
    }
    return code;
}

// Sum of the squares of the block whose first thread is `first`.
fn block_sum(first: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < BLOCK_THREADS; i++) {
        sum += squares[first + i];
    }
    return sum;
}

// Word w of a row: its codes as a stream, first coordinate in the lowest bits.
fn packed_word(local_row: u32, w: u32) -> u32 {
    let first = 32u * w / BITS;
    var word = codes[local_row * HEAD_DIM + first] >> (32u * w % BITS);
    for (var c = first + 1u; c * BITS < 32u * (w + 1u); c++) {
        word |= codes[local_row * HEAD_DIM + c] << (c * BITS - 32u * w);
    }
    return word;
}

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
    var boundaries = BOUNDARIES;
    for (var i = tid; i < (1u << BITS) - 1u; i += WORKGROUP_SIZE) {
        table[i] = boundaries[i];
    }
    var x: Octet;
    for (var m = 0u; m < 4u; m++) {
        x.lo[m] = src[source * HEAD_DIM + t + m * ROW_THREADS];
        x.hi[m] = src[source * HEAD_DIM + t + (m + 4u) * ROW_THREADS];
    }
    if (SIGN_BEFORE) {
        x = apply_signs(x, t, ROW_THREADS);
    }

    // Phase 2: butterflies, widest stride first; normalise.
    x = pass_wide(x);
    exchange_put(local_row, t, ROW_THREADS, x);
    workgroupBarrier();
    x = pass_full(exchange_get(local_row, middle_first(t), 8u));
    exchange_put(local_row, middle_first(t), 8u, x);
    workgroupBarrier();
    x = pass_full(exchange_get(local_row, 8u * t, 1u));
    x = Octet(x.lo * INV_SQRT_HEAD_DIM, x.hi * INV_SQRT_HEAD_DIM);

    // Phase 3: the norm of the block this thread belongs to.
    squares[tid] = dot(x.lo, x.lo) + dot(x.hi, x.hi);
    workgroupBarrier();
    let block = t / BLOCK_THREADS;
    let first = local_row * ROW_THREADS + block * BLOCK_THREADS;
    let sum = block_sum(first);
    var norm = sqrt(sum);
    var scale = SQRT_HEAD_DIM;
    if (NORMS_PER_POS == 2u) {
        norm = sqrt(sum / BLOCK_DIM);
        scale = params.scale_factor_d512;
    }
    scale = select(scale / norm, 0.0, norm <= ZERO_NORM);

    // Phase 4: quantise.
    for (var m = 0u; m < 4u; m++) {
        codes[local_row * HEAD_DIM + 8u * t + m] = nearest(x.lo[m] * scale);
        codes[local_row * HEAD_DIM + 8u * t + m + 4u] = nearest(x.hi[m] * scale);
    }
    workgroupBarrier();

    // Phase 5: with norm correction, the norm with which the decoded block is as long as this one.
    // Every thread has read the boundaries and the squares: both arrays are free.
    if (NORM_CORRECTION) {
        var levels = CODEBOOK;
        for (var i = tid; i < 1u << BITS; i += WORKGROUP_SIZE) {
            table[i] = levels[i];
        }
        workgroupBarrier();
        var decoded = 0.0;
        for (var m = 0u; m < 8u; m++) {
            let level = table[codes[local_row * HEAD_DIM + 8u * t + m]];
            decoded += level * level;
        }
        squares[tid] = decoded;
        workgroupBarrier();
        norm /= sqrt(block_sum(first) / BLOCK_DIM);
        if (NORMS_PER_POS == 2u) {
            norm *= params.scale_factor_d512;
        }
    }

    // Phase 6: pack and store. In a sliding run longer than the cache, the newest token of a slot wins.
    var slot = params.write_pos + token;
    var overwritten = false;
    if (params.is_sliding != 0u) {
        overwritten = params.num_tokens - token > params.cache_capacity;
        slot = (params.write_pos + token % params.cache_capacity) % params.cache_capacity;
    }
    if (row < rows && !overwritten) {
        let at = kv_head * params.cache_capacity + slot;
        for (var w = t; w < ROW_WORDS; w += ROW_THREADS) {
            packed[at * ROW_WORDS + w] = packed_word(local_row, w);
        }
        if (t % BLOCK_THREADS == 0u) {
            norms[at * NORMS_PER_POS + block] = norm;
        }
    }
}
