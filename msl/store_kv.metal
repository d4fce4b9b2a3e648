// Stores K or V rows as they are, in f32 or f16, into ring slots.
//
// One thread for four coordinates, a quad. Threads are numbered over [token][kv_head][quad].
// Contract: src/kernels/store_kv.rs. Oracle: src/oracle/store_kv.rs.

constant constexpr uint QUADS = HEAD_DIM / 4u;
constant constexpr uint QUAD_WORDS = COORD_BITS / 8u;

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

kernel void store_kv(
    device const float *src [[buffer(0)]], // [token][kv_head][coord]
    device uint *rows [[buffer(1)]],       // [kv_head][slot][word]
    constant Params &params [[buffer(2)]],
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint3 workgroups [[threadgroups_per_grid]],
    uint tid [[thread_index_in_threadgroup]]) {
    // Phase 1: which quad, and its slot. In a sliding run longer than the cache, the newest token
    // of a slot wins.
    uint i = (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP_SIZE + tid;
    if (i >= params.num_tokens * params.num_kv_heads * QUADS) {
        return;
    }
    uint kv_head = i / QUADS % params.num_kv_heads;
    uint token = i / QUADS / params.num_kv_heads;
    bool sliding = params.is_sliding != 0;
    if (sliding && params.num_tokens - token > params.cache_capacity) {
        return;
    }
    uint slot = params.write_pos + token;
    if (sliding) {
        slot = (params.write_pos + token % params.cache_capacity) % params.cache_capacity;
    }

    // Phase 2: load and store.
    float4 x = float4(src[4u * i], src[4u * i + 1u], src[4u * i + 2u], src[4u * i + 3u]);
    uint quad = (kv_head * params.cache_capacity + slot) * QUADS + i % QUADS;
    uint at = quad * QUAD_WORDS;
    if (COORD_BITS == 16) {
        rows[at] = as_type<uint>(half2(x.xy));
        rows[at + 1u] = as_type<uint>(half2(x.zw));
    } else {
        for (uint c = 0; c < QUAD_WORDS; c++) {
            rows[at + c] = as_type<uint>(x[c]);
        }
    }
}
