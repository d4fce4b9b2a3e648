// Attention of several query tokens of several sequences over a paged cache, packed or dense.
//
// A query is one query head of one token. Workgroup (x, y, z): x = tile of QUERIES queries that
// share a KV head, y = KV head and split of the positions, z = sequence. K and V pass through
// workgroup memory, CHUNK coordinates of BLOCK positions at a time, so that a row is decoded once
// for the whole tile. The QUADS lanes of a query group score THREAD_QUERIES queries, each lane
// against positions lane, lane + QUADS .. of a block; of the accumulators, a lane owns one quad
// of coordinates in each chunk.
// Contract: src/kernels/flash_attn_tile.rs. Oracle: src/oracle/flash_attn_tile.rs.

const CHUNK = 64u;
const CHUNKS = HEAD_DIM / CHUNK;
const OCTETS = CHUNK / 8u;
const QUADS = CHUNK / 4u;
const PITCH = QUADS + 1u; // of a staged position; a quad of padding spreads lanes over the banks
const QUERIES = WORKGROUP_SIZE / QUADS * THREAD_QUERIES;
const THREAD_POSITIONS = BLOCK / QUADS;
const K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
const V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;
const NORM_OCTETS = HEAD_DIM / NORMS_PER_POS / 8u; // octets that share a norm

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    num_tokens: u32,
    num_sequences: u32,
    max_query_tokens: u32,
    page_size: u32,
    num_pages: u32,
    num_blocks: u32,
    scale: f32,
    mask_type: u32,
    sliding_window: u32,
    softcap: f32,
    nwg: u32,
    split_base: u32,
    splits: u32,
    scale_factor_d512: f32,
}

struct Sequence {
    first_token: u32,  // of its query tokens in q
    query_tokens: u32,
    position: u32,     // of the first query token, counted from the oldest stored position
    kv_seq_len: u32,
    ring_start: u32,
    kv_capacity: u32,
    first_block: u32,  // its first entry of block_table
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;          // [token][head][coord / 4]
@group(0) @binding(2) var<storage, read> sequences: array<Sequence>;
@group(0) @binding(3) var<storage, read> block_table: array<u32>;      // page of each block
@group(0) @binding(4) var<storage, read> k: array<u32>;                // [page][kv_head][slot][word]
@group(0) @binding(5) var<storage, read> k_norms: array<f32>;          // [page][kv_head][slot][block]
@group(0) @binding(6) var<storage, read> v: array<u32>;                // [page][kv_head][slot][word]
@group(0) @binding(7) var<storage, read> v_norms: array<f32>;          // [page][kv_head][slot][block]
@group(0) @binding(8) var<storage, read_write> dst: array<f32>;        // [token][head][coord], or partials

var<workgroup> cache_rows: array<u32, BLOCK>;                 // [position]
var<workgroup> staged: array<vec4<f32>, BLOCK * PITCH>;       // [position][quad] of K, then of V
var<workgroup> weights: array<f32, BLOCK * QUERIES>;          // [position][query]
var<workgroup> lane_values: array<f32, QUADS * QUERIES>;      // [lane][query]: maxima, at the end sums

// Positions that the query at `position` sees: from x to before y.
fn visible(kv_seq_len: u32, position: u32) -> vec2<u32> {
    if (params.mask_type == 0u) {
        return vec2(0u, kv_seq_len);
    }
    let end = min(position + 1u, kv_seq_len);
    return vec2(min(first_visible(position + 1u, params.mask_type, params.sliding_window), end), end);
}

// Row of a chronological position in the cache. Table and pages are clamped to what is bound, so
// that a wrong record or table cannot reach beyond it.
fn cache_row(sequence: Sequence, kv_head: u32, i: u32) -> u32 {
    let slot = ring_slot(i, sequence.ring_start, sequence.kv_capacity);
    let block = min(sequence.first_block + slot / params.page_size, params.num_blocks - 1u);
    let page = min(block_table[block], params.num_pages - 1u);
    return (page * params.n_kv_heads + kv_head) * params.page_size + slot % params.page_size;
}

fn k_octet(row: u32, octet: u32) -> Octet {
    let bit = octet * 8u * K_BITS;
    let w = row * K_ROW_WORDS + bit / 32u;
    if (K_BITS == 32u) {
        return octet_of_floats(
            vec4(k[w], k[w + 1u], k[w + 2u], k[w + 3u]), vec4(k[w + 4u], k[w + 5u], k[w + 6u], k[w + 7u]));
    }
    if (K_BITS == 16u) {
        return octet_of_halves(vec4(k[w], k[w + 1u], k[w + 2u], k[w + 3u]));
    }
    let factor = decode_scale(k_norms[row * NORMS_PER_POS + octet / NORM_OCTETS], params.scale_factor_d512);
    return octet_of_codes(vec2(k[w], k[w + second_word(bit, K_BITS)]), bit, K_BITS, 0u, factor);
}

fn v_octet(row: u32, octet: u32) -> Octet {
    let bit = octet * 8u * V_BITS;
    let w = row * V_ROW_WORDS + bit / 32u;
    if (V_BITS == 32u) {
        return octet_of_floats(
            vec4(v[w], v[w + 1u], v[w + 2u], v[w + 3u]), vec4(v[w + 4u], v[w + 5u], v[w + 6u], v[w + 7u]));
    }
    if (V_BITS == 16u) {
        return octet_of_halves(vec4(v[w], v[w + 1u], v[w + 2u], v[w + 3u]));
    }
    let factor = decode_scale(v_norms[row * NORMS_PER_POS + octet / NORM_OCTETS], params.scale_factor_d512);
    return octet_of_codes(vec2(v[w], v[w + second_word(bit, V_BITS)]), bit, V_BITS, V_BASE, factor);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
) {
    let sequence = sequences[workgroup.z];
    let kv_head = workgroup.y / params.splits;
    let split = workgroup.y % params.splits;
    let lane = tid % QUADS;
    let query = tid / QUADS * THREAD_QUERIES; // this thread's first of the tile
    let first_query = workgroup.x * QUERIES;
    let num_queries = sequence.query_tokens * GQA;
    if (first_query >= num_queries) {
        return;
    }

    // Phase 1: codebook to workgroup memory; the positions of this split that the tile sees. A
    // split is an equal contiguous part of what the sequence sees.
    codebook_fill(tid);
    let last_query = min(first_query + QUERIES, num_queries) - 1u;
    let all_begin = visible(sequence.kv_seq_len, sequence.position).x;
    let all_end = visible(sequence.kv_seq_len, sequence.position + sequence.query_tokens - 1u).y;
    let span = (all_end - all_begin + params.splits - 1u) / params.splits;
    let split_begin = min(all_begin + split * span, all_end);
    let split_end = min(split_begin + span, all_end);
    let begin = max(split_begin, visible(sequence.kv_seq_len, sequence.position + first_query / GQA).x);
    let end = min(split_end, visible(sequence.kv_seq_len, sequence.position + last_query / GQA).y);

    // Queries past the last repeat it and are not stored.
    var q_rows = array<u32, THREAD_QUERIES>();
    var seen = array<vec2<u32>, THREAD_QUERIES>();
    var top = array<f32, THREAD_QUERIES>();
    var sum = array<f32, THREAD_QUERIES>();
    var acc = array<vec4<f32>, THREAD_QUERIES * CHUNKS>();
    for (var r = 0u; r < THREAD_QUERIES; r++) {
        let i = min(first_query + query + r, last_query);
        let token = min(sequence.first_token + i / GQA, params.num_tokens - 1u);
        q_rows[r] = token * params.n_heads + kv_head * GQA + i % GQA;
        let sees = visible(sequence.kv_seq_len, sequence.position + i / GQA);
        seen[r] = vec2(max(begin, sees.x), min(end, sees.y));
        top[r] = NO_SCORE;
    }

    for (var base = begin; base < end; base += BLOCK) {
        // Phase 2: scores, a chunk of the coordinates at a time. Positions past the end repeat
        // the last one and get no weight.
        if (tid < BLOCK) {
            cache_rows[tid] = cache_row(sequence, kv_head, min(base + tid, end - 1u));
        }
        var scores = array<f32, THREAD_QUERIES * THREAD_POSITIONS>();
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            // All have read what was staged before.
            workgroupBarrier();
            for (var i = tid; i < BLOCK * OCTETS; i += WORKGROUP_SIZE) {
                let octet = k_octet(cache_rows[i / OCTETS], chunk * OCTETS + i % OCTETS);
                let at = i / OCTETS * PITCH + i % OCTETS * 2u;
                staged[at] = octet.lo;
                staged[at + 1u] = octet.hi;
            }
            workgroupBarrier();
            for (var c = 0u; c < QUADS; c++) {
                var keys = array<vec4<f32>, THREAD_POSITIONS>();
                for (var p = 0u; p < THREAD_POSITIONS; p++) {
                    keys[p] = staged[(lane + p * QUADS) * PITCH + c];
                }
                for (var r = 0u; r < THREAD_QUERIES; r++) {
                    let x = q[q_rows[r] * (HEAD_DIM / 4u) + chunk * QUADS + c];
                    for (var p = 0u; p < THREAD_POSITIONS; p++) {
                        scores[r * THREAD_POSITIONS + p] += dot(x, keys[p]);
                    }
                }
            }
        }

        // Phase 3: running softmax; scores become weights.
        for (var r = 0u; r < THREAD_QUERIES; r++) {
            var lane_top = NO_SCORE;
            for (var p = 0u; p < THREAD_POSITIONS; p++) {
                let at = r * THREAD_POSITIONS + p;
                let i = base + lane + p * QUADS;
                scores[at] = soften(scores[at] * params.scale, params.softcap);
                let counts = i >= seen[r].x && i < seen[r].y;
                lane_top = max(lane_top, select(NO_SCORE, scores[at], counts));
            }
            lane_values[lane * QUERIES + query + r] = lane_top;
        }
        workgroupBarrier();
        for (var r = 0u; r < THREAD_QUERIES; r++) {
            var new_top = top[r];
            for (var l = 0u; l < QUADS; l++) {
                new_top = max(new_top, lane_values[l * QUERIES + query + r]);
            }
            let rescale = exp(top[r] - new_top);
            top[r] = new_top;
            sum[r] *= rescale;
            for (var chunk = 0u; chunk < CHUNKS; chunk++) {
                acc[r * CHUNKS + chunk] *= rescale;
            }
            for (var p = 0u; p < THREAD_POSITIONS; p++) {
                let i = base + lane + p * QUADS;
                let counts = i >= seen[r].x && i < seen[r].y;
                let weight = select(0.0, exp(scores[r * THREAD_POSITIONS + p] - new_top), counts);
                sum[r] += weight;
                weights[(lane + p * QUADS) * QUERIES + query + r] = weight;
            }
        }

        // Phase 4: add the weighted V rows, a chunk of the coordinates at a time.
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            // All have read what was staged before, and the weights are complete.
            workgroupBarrier();
            for (var i = tid; i < BLOCK * OCTETS; i += WORKGROUP_SIZE) {
                let octet = v_octet(cache_rows[i / OCTETS], chunk * OCTETS + i % OCTETS);
                let at = i / OCTETS * PITCH + i % OCTETS * 2u;
                staged[at] = octet.lo;
                staged[at + 1u] = octet.hi;
            }
            workgroupBarrier();
            // In variables of their own, which stay in registers where acc[] is indexed in memory.
            var part = array<vec4<f32>, THREAD_QUERIES>();
            for (var p = 0u; p < BLOCK; p++) {
                let value = staged[p * PITCH + lane];
                for (var r = 0u; r < THREAD_QUERIES; r++) {
                    part[r] += weights[p * QUERIES + query + r] * value;
                }
            }
            for (var r = 0u; r < THREAD_QUERIES; r++) {
                acc[r * CHUNKS + chunk] += part[r];
            }
        }
    }

    // Phase 5: add up the lanes' sums, and store.
    for (var r = 0u; r < THREAD_QUERIES; r++) {
        lane_values[lane * QUERIES + query + r] = sum[r];
    }
    workgroupBarrier();
    for (var r = 0u; r < THREAD_QUERIES; r++) {
        if (first_query + query + r <= last_query) {
            let row = q_rows[r];
            let slot = params.split_base + split;
            var all_sum = 0.0;
            for (var l = 0u; l < QUADS; l++) {
                all_sum += lane_values[l * QUERIES + query + r];
            }
            for (var i = 0u; i < CHUNKS * 4u; i++) {
                let value = acc[r * CHUNKS + i / 4u][i % 4u];
                let c = i / 4u * CHUNK + lane * 4u + i % 4u;
                if (params.nwg == 1u) {
                    dst[row * HEAD_DIM + c] = select(value / all_sum, 0.0, all_sum == 0.0);
                } else {
                    dst[partial_at(row, c, slot, params.nwg)] = value;
                }
            }
            if (params.nwg > 1u && lane == 0u) {
                let at = partial_pair_at(params.num_tokens * params.n_heads, row, slot, params.nwg);
                dst[at] = all_sum;
                dst[at + 1u] = top[r];
            }
        }
    }
}
