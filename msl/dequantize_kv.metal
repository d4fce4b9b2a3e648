// Decodes packed rows to f32. The result stays in the rotated basis.
//
// One thread a packed word: eight coordinates. Threads are numbered over
// [token][kv_head][word].
// Contract: src/kernels/dequantize_kv.rs. Oracle: src/oracle/dequantize_kv.rs.

constant constexpr uint ROW_WORDS = HEAD_DIM * BITS / 32u;
constant constexpr uint WORDS_PER_BLOCK = ROW_WORDS / NORMS_PER_POS;

struct Params {
    uint head_dim;
    uint num_kv_heads;
    uint read_pos;
    uint cache_capacity;
    uint norms_per_pos;
    float scale_factor_d512;
    uint num_tokens;
    uint dst_token_stride;
    uint dst_head_stride;
};
static_assert(sizeof(Params) == 36, "Params is the contract's block");

kernel void dequantize_kv(
    device const uint *packed [[buffer(0)]], // [kv_head][slot][word]
    device const float *norms [[buffer(1)]], // [kv_head][slot][block]
    device float *dst [[buffer(2)]],         // [token][kv_head][coord] by strides
    constant Params &params [[buffer(3)]],
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint3 workgroups [[threadgroups_per_grid]],
    uint tid [[thread_index_in_threadgroup]]) {
    threadgroup float codebook[LEVELS];

    // Phase 1: codebook to threadgroup memory.
    codebook_fill(codebook, tid);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    // Phase 2: which word.
    uint i = (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP_SIZE + tid;
    if (i >= params.num_tokens * params.num_kv_heads * ROW_WORDS) {
        return;
    }
    uint w = i % ROW_WORDS;
    uint kv_head = i / ROW_WORDS % params.num_kv_heads;
    uint token = i / ROW_WORDS / params.num_kv_heads;
    uint slot = (params.read_pos + token) % params.cache_capacity;
    uint row = kv_head * params.cache_capacity + slot;

    // Phase 3: decode and store.
    float norm = norms[row * NORMS_PER_POS + w / WORDS_PER_BLOCK];
    float scale = decode_scale(norm, params.scale_factor_d512);
    uint word = packed[row * ROW_WORDS + w];
    uint at = token * params.dst_token_stride + kv_head * params.dst_head_stride + w * CODES_PER_WORD;
    for (uint c = 0; c < CODES_PER_WORD; c++) {
        dst[at + c] = centroid(codebook, word, c) * scale;
    }
}
