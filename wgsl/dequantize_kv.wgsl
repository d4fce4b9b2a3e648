// Decodes packed rows to f32. The result stays in the rotated basis.
//
// One thread a packed word: eight coordinates. Threads are numbered over
// [token][kv_head][word].
// Contract: src/kernels/dequantize_kv.rs. Oracle: src/oracle/dequantize_kv.rs.

const ROW_WORDS = HEAD_DIM * BITS / 32u;
const WORDS_PER_BLOCK = ROW_WORDS / NORMS_PER_POS;

struct Params {
    head_dim: u32,
    num_kv_heads: u32,
    read_pos: u32,
    cache_capacity: u32,
    norms_per_pos: u32,
    scale_factor_d512: f32,
    num_tokens: u32,
    dst_token_stride: u32,
    dst_head_stride: u32,
}

@group(0) @binding(0) var<storage, read> packed: array<u32>;     // [kv_head][slot][word]
@group(0) @binding(1) var<storage, read> norms: array<f32>;      // [kv_head][slot][block]
@group(0) @binding(2) var<storage, read_write> dst: array<f32>;  // [token][kv_head][coord] by strides
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    // Phase 1: codebook to workgroup memory.
    codebook_fill(tid);
    workgroupBarrier();

    // Phase 2: which word.
    let i = (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP_SIZE + tid;
    if (i >= params.num_tokens * params.num_kv_heads * ROW_WORDS) {
        return;
    }
    let w = i % ROW_WORDS;
    let kv_head = i / ROW_WORDS % params.num_kv_heads;
    let token = i / ROW_WORDS / params.num_kv_heads;
    let slot = (params.read_pos + token) % params.cache_capacity;
    let row = kv_head * params.cache_capacity + slot;

    // Phase 3: decode and store.
    let norm = norms[row * NORMS_PER_POS + w / WORDS_PER_BLOCK];
    let scale = decode_scale(norm, params.scale_factor_d512);
    let word = packed[row * ROW_WORDS + w];
    let at = token * params.dst_token_stride + kv_head * params.dst_head_stride + w * CODES_PER_WORD;
    for (var c = 0u; c < CODES_PER_WORD; c++) {
        dst[at + c] = centroid(word, c) * scale;
    }
}
