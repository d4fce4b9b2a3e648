// Encodes K or V: rotate, take the norm, scale to N(0, 1), pick the nearest centroid, pack.
//
// A row is one token of one KV head. A threadgroup handles ROWS_PER_WORKGROUP rows, one
// simdgroup a row. Codes of a row go through threadgroup memory and are packed a word a lane: words
// are written whole, and a row is whole words at every width, so no neighbouring row is touched.
// Contract: src/kernels/quantize_kv.rs. Oracle: src/oracle/quantize_kv.rs.

constant constexpr uint ROW_WORDS = HEAD_DIM * BITS / 32;

struct Params {
    uint head_dim;
    uint num_kv_heads;
    uint write_pos;
    uint cache_capacity;
    uint is_sliding;
    float scale_factor_d512;
    uint rms_probe_enabled;
    uint num_tokens;
};
static_assert(sizeof(Params) == 32, "Params is the contract's block");

kernel void quantize_kv(
    device const float *src [[buffer(0)]], // [token][kv_head][coord]
    device uint *packed [[buffer(1)]],     // [kv_head][slot][word]
    device float *norms [[buffer(2)]],     // [kv_head][slot][block]
    constant Params &params [[buffer(3)]],
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint3 workgroups [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
    threadgroup uchar all_codes[ROWS_PER_WORKGROUP * HEAD_DIM]; // [row][coord]
    threadgroup uchar *codes = all_codes + simdgroup * HEAD_DIM;

    uint row = (workgroup.y * workgroups.x + workgroup.x) * ROWS_PER_WORKGROUP + simdgroup;
    if (row >= params.num_tokens * params.num_kv_heads) {
        return; // whole simdgroups leave, and nothing below waits for another simdgroup
    }
    uint token = row / params.num_kv_heads;
    uint kv_head = row % params.num_kv_heads;

    // Phase 1: load, sign.
    float x[EPT];
    for (uint i = 0; i < EPT; i++) {
        x[i] = src[row * HEAD_DIM + lane * EPT + i];
    }
    if (SIGN_BEFORE) {
        apply_signs(x, lane * EPT);
    }

    // Phase 2: butterflies, narrowest stride first; normalise.
    butterflies(x, lane);
    float factor = normaliser(lane);
    for (uint i = 0; i < EPT; i++) {
        x[i] *= factor;
    }

    // Phase 3: the norm of the block this lane belongs to.
    uint block = lane / BLOCK_LANES;
    float norm = block_norm(block_sum(squares_of(x), block));

    // Phase 4: quantise.
    float scale = encode_scale(norm, params.scale_factor_d512);
    nearest_codes(x, scale, Quantizer{BOUNDARIES, GUESS, BITS}, codes + lane * EPT);
    simdgroup_barrier(mem_flags::mem_threadgroup);

    // Phase 5: with norm correction, the norm with which the decoded block is as long as this one.
    if (NORM_CORRECTION) {
        float decoded = decoded_squares(codes + lane * EPT, CODEBOOK);
        norm = corrected_norm(norm, block_sum(decoded, block), params.scale_factor_d512);
    }

    // Phase 6: pack and store.
    uint left = params.num_tokens - token;
    uint slot = slot_of(token, params.write_pos, params.cache_capacity, params.is_sliding);
    if (!overwritten(left, params.cache_capacity, params.is_sliding)) {
        uint at = kv_head * params.cache_capacity + slot;
        for (uint w = lane; w < ROW_WORDS; w += 32) {
            packed[at * ROW_WORDS + w] = packed_word(codes, w, BITS);
        }
        if (lane % BLOCK_LANES == 0) {
            norms[at * NORMS_PER_POS + block] = norm;
        }
    }
}
