// Decodes packed rows to f32. The result stays in the rotated basis.
//
// One thread for eight coordinates, an octet. Threads are numbered over
// [token][kv_head][octet].
// Contract: src/kernels/dequantize_kv.rs. Oracle: src/oracle/dequantize_kv.rs.

constant constexpr uint ROW_WORDS = HEAD_DIM * BITS / 32u;
constant constexpr uint OCTETS = HEAD_DIM / 8u;
constant constexpr uint BLOCK_OCTETS = OCTETS / NORMS_PER_POS; // octets that share a norm

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
    threadgroup float codebook[CODEBOOK_LEN];

    // Phase 1: codebook to threadgroup memory.
    codebook_fill(codebook, tid);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    // Phase 2: which octet.
    uint i = (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP_SIZE + tid;
    if (i >= params.num_tokens * params.num_kv_heads * OCTETS) {
        return;
    }
    uint octet = i % OCTETS;
    uint kv_head = i / OCTETS % params.num_kv_heads;
    uint token = i / OCTETS / params.num_kv_heads;
    uint slot = (params.read_pos + token) % params.cache_capacity;
    uint row = kv_head * params.cache_capacity + slot;

    // Phase 3: decode and store.
    float norm = norms[row * NORMS_PER_POS + octet / BLOCK_OCTETS];
    float scale = decode_scale(norm, params.scale_factor_d512);
    uint bit = octet * 8u * BITS;
    uint word = row * ROW_WORDS + bit / 32u;
    uint2 words = uint2(packed[word], packed[word + second_word(bit, BITS)]);
    float4 lo = centroids(codebook, uint2(four_codes(words, bit % 32u, BITS), 0u), 0u, BITS, 0u) * scale;
    float4 hi = centroids(codebook, uint2(four_codes(words, bit % 32u + 4u * BITS, BITS), 0u), 0u, BITS, 0u) * scale;
    uint at = token * params.dst_token_stride + kv_head * params.dst_head_stride + octet * 8u;
    for (uint c = 0; c < 4u; c++) {
        dst[at + c] = lo[c];
        dst[at + 4u + c] = hi[c];
    }
}
