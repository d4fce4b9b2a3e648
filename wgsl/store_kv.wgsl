// Stores K or V rows as they are, in f32 or f16, into ring slots.
//
// One thread for four coordinates, a quad. Threads are numbered over [token][kv_head][quad].
// Halves are packed by a core built-in, so no f16 feature is needed.
// Contract: src/kernels/store_kv.rs. Oracle: src/oracle/store_kv.rs.

const QUADS = HEAD_DIM / 4u;
const QUAD_WORDS = COORD_BITS / 8u;

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

@group(0) @binding(0) var<storage, read> src: array<f32>;        // [token][kv_head][coord]
@group(0) @binding(1) var<storage, read_write> rows: array<u32>; // [kv_head][slot][word]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    // Phase 1: which quad, and its slot. In a sliding run longer than the cache, the newest token
    // of a slot wins.
    let i = (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP_SIZE + tid;
    if (i >= params.num_tokens * params.num_kv_heads * QUADS) {
        return;
    }
    let kv_head = i / QUADS % params.num_kv_heads;
    let token = i / QUADS / params.num_kv_heads;
    let sliding = params.is_sliding != 0u;
    if (sliding && params.num_tokens - token > params.cache_capacity) {
        return;
    }
    var slot = params.write_pos + token;
    if (sliding) {
        slot = (params.write_pos + token % params.cache_capacity) % params.cache_capacity;
    }

    // Phase 2: load and store.
    let x = vec4(src[4u * i], src[4u * i + 1u], src[4u * i + 2u], src[4u * i + 3u]);
    let quad = (kv_head * params.cache_capacity + slot) * QUADS + i % QUADS;
    let at = quad * QUAD_WORDS;
    if (COORD_BITS == 16u) {
        rows[at] = pack2x16float(x.xy);
        rows[at + 1u] = pack2x16float(x.zw);
    } else {
        for (var c = 0u; c < QUAD_WORDS; c++) {
            rows[at + c] = bitcast<u32>(x[c]);
        }
    }
}
