// Encodes K or V: rotate, take the norm, scale to N(0, 1), pick the nearest centroid, pack.
//
// A row is one token of one KV head. A threadgroup handles ROWS_PER_WORKGROUP rows, one
// simdgroup a row. Codes of a row go through threadgroup memory and are packed a word a lane: words
// are written whole, and a row is whole words at every width, so no neighbouring row is touched.
// Contract: src/kernels/quantize_kv.rs. Oracle: src/oracle/quantize_kv.rs.

constant constexpr uint ROW_WORDS = HEAD_DIM * BITS / 32;
constant constexpr uint BLOCK_LANES = 32 / NORMS_PER_POS; // lanes whose coordinates share a norm
constant constexpr float BLOCK_DIM = HEAD_DIM / NORMS_PER_POS; // those coordinates

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

// Index of the nearest centroid: binary search among the boundaries, ties to the lower index.
inline uint nearest(float z) {
    uint code = 0;
    for (uint step = 1u << (BITS - 1u); step > 0; step >>= 1) {
        code += z > BOUNDARIES[code + step - 1] ? step : 0u;
    }
    return code;
}

// Sum of the squares of this lane's block. Every lane takes part in every sum.
inline float block_sum(float squares, uint block) {
    float sum = simd_sum(block == 0 ? squares : 0.0f);
    if (NORMS_PER_POS == 2) {
        float upper = simd_sum(block == 1 ? squares : 0.0f);
        sum = block == 0 ? sum : upper;
    }
    return sum;
}

// Word w of a row: its codes as a stream, first coordinate in the lowest bits.
inline uint packed_word(threadgroup const uchar *codes, uint w) {
    uint first = 32 * w / BITS;
    uint word = uint(codes[first]) >> (32 * w % BITS);
    for (uint c = first + 1; c * BITS < 32 * (w + 1); c++) {
        word |= uint(codes[c]) << (c * BITS - 32 * w);
    }
    return word;
}

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
    float squares = 0.0f;
    for (uint i = 0; i < EPT; i++) {
        squares += x[i] * x[i];
    }
    uint block = lane / BLOCK_LANES;
    float sum = block_sum(squares, block);
    float norm = precise::sqrt(sum);
    float scale = SQRT_HEAD_DIM;
    if (NORMS_PER_POS == 2) {
        norm = precise::sqrt(sum / BLOCK_DIM);
        scale = params.scale_factor_d512;
    }
    scale = norm <= ZERO_NORM ? 0.0f : scale / norm;

    // Phase 4: quantise.
    for (uint i = 0; i < EPT; i++) {
        codes[lane * EPT + i] = uchar(nearest(x[i] * scale));
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);

    // Phase 5: with norm correction, the norm with which the decoded block is as long as this one.
    if (NORM_CORRECTION) {
        float decoded = 0.0f;
        for (uint i = 0; i < EPT; i++) {
            float level = CODEBOOK[codes[lane * EPT + i]];
            decoded += level * level;
        }
        norm /= precise::sqrt(block_sum(decoded, block) / BLOCK_DIM);
        if (NORMS_PER_POS == 2) {
            norm *= params.scale_factor_d512;
        }
    }

    // Phase 6: pack and store. In a sliding run longer than the cache, the newest token of a slot wins.
    uint slot = params.write_pos + token;
    bool overwritten = false;
    if (params.is_sliding != 0) {
        overwritten = params.num_tokens - token > params.cache_capacity;
        slot = (params.write_pos + token % params.cache_capacity) % params.cache_capacity;
    }
    if (!overwritten) {
        uint at = kv_head * params.cache_capacity + slot;
        for (uint w = lane; w < ROW_WORDS; w += 32) {
            packed[at * ROW_WORDS + w] = packed_word(codes, w);
        }
        if (lane % BLOCK_LANES == 0) {
            norms[at * NORMS_PER_POS + block] = norm;
        }
    }
}
