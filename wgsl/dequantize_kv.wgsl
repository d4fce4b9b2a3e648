// Decodes packed rows to f32. The result stays in the rotated basis.
//
// One thread for eight coordinates, an octet. Threads are numbered over
// [token][kv_head][octet].
// Contract: src/kernels/dequantize_kv.rs. Oracle: src/oracle/dequantize_kv.rs.

const ROW_WORDS = HEAD_DIM * BITS / 32u;
const OCTETS = HEAD_DIM / 8u;
const BLOCK_OCTETS = OCTETS / NORMS_PER_POS; // octets that share a norm

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

    // Phase 2: which octet.
    let i = (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP_SIZE + tid;
    if (i >= params.num_tokens * params.num_kv_heads * OCTETS) {
        return;
    }
    let octet = i % OCTETS;
    let kv_head = i / OCTETS % params.num_kv_heads;
    let token = i / OCTETS / params.num_kv_heads;
    let slot = (params.read_pos + token) % params.cache_capacity;
    let row = kv_head * params.cache_capacity + slot;

    // Phase 3: decode and store.
    let norm = norms[row * NORMS_PER_POS + octet / BLOCK_OCTETS];
    let scale = decode_scale(norm, params.scale_factor_d512);
    let bit = octet * 8u * BITS;
    let word = row * ROW_WORDS + bit / 32u;
    let words = vec2(packed[word], packed[word + second_word(bit, BITS)]);
    let lo = centroids(vec2(four_codes(words, bit % 32u, BITS), 0u), 0u, BITS, 0u) * scale;
    let hi = centroids(vec2(four_codes(words, bit % 32u + 4u * BITS, BITS), 0u), 0u, BITS, 0u) * scale;
    let at = token * params.dst_token_stride + kv_head * params.dst_head_stride + octet * 8u;
    for (var c = 0u; c < 4u; c++) {
        dst[at + c] = lo[c];
        dst[at + 4u + c] = hi[c];
    }
}
