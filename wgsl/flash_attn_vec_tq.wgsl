// Decode attention of one query token over packed K and V, in the rotated basis.
//
// Workgroup (x, y): x = KV head and part of its query heads, y = split of the visible
// positions. All GROUP query heads share one read of K and V. See shared/attention.wgsl for row
// groups; each handles ROWS positions at a time, and reads the next ones before it computes.
// Pieces k_words, k_pairs or k_vectors, and the same of V, read a lane's codes.
// Contract: src/kernels/flash_attn_vec_tq.rs. Oracle: src/oracle/flash_attn_vec_tq.rs.

const K_LANE_BITS = COORDS * K_BITS;
const V_LANE_BITS = COORDS * V_BITS;
const K_WORDS = (K_LANE_BITS + 31u) / 32u; // words that hold a lane's codes of one row
const V_WORDS = (V_LANE_BITS + 31u) / 32u;
const K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
const V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;
const TILE = ROW_GROUPS * ROWS; // positions that a workgroup handles at a time

const BLOCK_LANES = LANES / NORMS_PER_POS; // lanes whose coordinates share a norm
const SCORES = ROWS * GROUP_PAD;           // of a row group in one tile
const OWNERS = min(SCORES, BLOCK_LANES);   // lanes that share the scores of a row group
const OWNED = SCORES / OWNERS;             // scores of each
const HEADS_OWNED = max(1u, GROUP_PAD / OWNERS); // query heads of these

// Arrays of a lane, by their length: K_WORDS and V_WORDS codes of a row, GROUP * VECS vectors of
// query heads [head][coord / 4], SCORES its own part of scores [row][head], OWNED, GROUP_PAD one of
// each query head. Without aliases: for HLSL, naga defines the zero of two aliases of a type twice.

// Rounds in which owned values are put.
const BLOCKS_ROUND = 0u;
const MAXIMA_ROUND = 1u;
const WEIGHTS_ROUND = 2u;
const EXCHANGE_ROUNDS = 3u;

const HIDDEN = -3.0e38; // score of a row past the end: far under any running maximum
const SUM_ROWS = ROWS;  // sums of a query head that a row group hands to the merge

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    kv_seq_len: u32,
    kv_capacity: u32,
    scale: f32,
    mask_type: u32,
    sliding_window: u32,
    softcap: f32,
    nwg: u32,
    ring_start: u32,
    scale_factor_d512: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;      // [head][coord / 4], rotated
@group(0) @binding(2) var<storage, read> k_packed: array<KUnit>;   // [kv_head][slot][word]
@group(0) @binding(3) var<storage, read> k_norms: array<f32>;      // [kv_head][slot][block]
@group(0) @binding(4) var<storage, read> v_packed: array<VUnit>;   // [kv_head][slot][word]
@group(0) @binding(5) var<storage, read> v_norms: array<f32>;      // [kv_head][slot][block]
@group(0) @binding(6) var<storage, read_write> dst: array<f32>;    // [head][coord], or partials

// What a lane reads of a tile.
struct Tile {
    k: array<array<u32, K_WORDS>, ROWS>,
    v: array<array<u32, V_WORDS>, ROWS>,
    k_norms: array<f32, OWNED>,
    v_norms: array<f32, OWNED>,
}

// Row of K and V of a position; rows past the end repeat the last one.
fn row_at(position: u32, end: u32, kv_head: u32) -> u32 {
    let slot = ring_slot(min(position, end - 1u), params.ring_start, params.kv_capacity);
    return kv_head * params.kv_capacity + slot;
}

// Reads the tile at `base`, of positions before `end`, which is above 0.
fn tile_at(tid: u32, base: u32, end: u32, kv_head: u32) -> Tile {
    let lane = tid % LANES;
    let first = base + tid / LANES;
    var tile = Tile();
    for (var r = 0u; r < ROWS; r++) { // unroll
        let row = row_at(first + r * ROW_GROUPS, end, kv_head);
        tile.k[r] = k_words(row, lane);
        tile.v[r] = v_words(row, lane);
    }
    for (var j = 0u; j < OWNED; j++) { // unroll
        let r = (j * OWNERS + lane % OWNERS) / GROUP_PAD;
        let row = row_at(first + r * ROW_GROUPS, end, kv_head);
        tile.k_norms[j] = k_norms[row * NORMS_PER_POS + lane / BLOCK_LANES];
        tile.v_norms[j] = v_norms[row * NORMS_PER_POS + lane / BLOCK_LANES];
    }
    return tile;
}

// Adds the dot product of a and b to sum.
fn dot_add(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
) {
    let in = invocation(tid);
    let lane = tid % LANES;
    let row_group = tid / LANES;
    let kv_head = workgroup.x / GROUPS_PER_KV;
    let first_head = kv_head * GQA + (workgroup.x % GROUPS_PER_KV) * GROUP;
    let end_head = min(first_head + GROUP, (kv_head + 1u) * GQA);
    let split = workgroup.y;

    // The positions of this split: an equal contiguous part of the visible ones.
    let first = first_visible(params.kv_seq_len, params.mask_type, params.sliding_window);
    let span = (params.kv_seq_len - first + params.nwg - 1u) / params.nwg;
    let begin = min(first + split * span, params.kv_seq_len);
    let end = min(begin + span, params.kv_seq_len);

    // Phase 1: first tile and q to registers, codebook to workgroup memory.
    var next = Tile();
    if (begin < end) {
        next = tile_at(tid, begin, end, kv_head);
    }
    var query = array<vec4<f32>, GROUP * VECS>();
    for (var h = 0u; h < GROUP; h++) { // unroll
        let head = min(first_head + h, end_head - 1u);
        for (var i = 0u; i < VECS; i++) { // unroll
            query[h * VECS + i] = q[(head * HEAD_DIM + lane * COORDS) / 4u + i];
        }
    }
    codebook_fill(tid);
    workgroupBarrier();

    let start = sum_start(exchange_fits(in));
    var top = array<f32, GROUP_PAD>();        // running maximum, to within SLACK
    var owned_top = array<f32, OWNED>();  // the same of the owned scores' heads
    var owned_sum = array<f32, OWNED>();
    var acc = array<vec4<f32>, GROUP * VECS>();
    for (var h = 0u; h < GROUP; h++) { // unroll
        top[h] = NO_SCORE;
        for (var i = 0u; i < VECS; i++) { // unroll
            acc[h * VECS + i] = vec4(start);
        }
    }
    for (var j = 0u; j < OWNED; j++) { // unroll
        owned_top[j] = NO_SCORE;
        owned_sum[j] = start;
    }

    for (var base = begin; base < end; base += TILE) {
        var tile = next;
        if (base + TILE < end) {
            next = tile_at(tid, base + TILE, end, kv_head);
        }

        // Phase 2: scores. Each lane adds up its coordinates, owners the lanes.
        var scores = array<f32, SCORES>();
        for (var r = 0u; r < ROWS; r++) { // unroll
            for (var i = 0u; i < VECS; i++) { // unroll
                let bit = 4u * i * K_BITS;
                let words = vec2(tile.k[r][bit / 32u], tile.k[r][min(bit / 32u + 1u, K_WORDS - 1u)]);
                let x = centroids(four_codes(words, bit % 32u, K_BITS), K_BITS, 0u);
                for (var h = 0u; h < GROUP; h++) { // unroll
                    scores[r * GROUP_PAD + h] = dot_add(x, query[h * VECS + i], scores[r * GROUP_PAD + h]);
                }
            }
        }
        scores_put(in, scores);
        if (EXCHANGE_BARRIER) {
            workgroupBarrier();
        }
        var owned = block_sums(in, scores);
        for (var j = 0u; j < OWNED; j++) { // unroll
            owned[j] *= decode_scale(tile.k_norms[j], params.scale_factor_d512) * params.scale;
        }
        if (NORMS_PER_POS > 1u) {
            owned_put(in, BLOCKS_ROUND, owned);
            if (EXCHANGE_BARRIER) {
                workgroupBarrier();
            }
            owned = row_sums(in, owned);
        }
        for (var j = 0u; j < OWNED; j++) { // unroll
            let v = j * OWNERS + lane % OWNERS;
            let visible = base + v / GROUP_PAD * ROW_GROUPS + row_group < end && v % GROUP_PAD < GROUP;
            owned[j] = select(HIDDEN, soften(owned[j], params.softcap), visible);
        }

        // Phase 3: running softmax; scores become weights, which take V's norm along.
        owned_put(in, MAXIMA_ROUND, owned);
        if (EXCHANGE_BARRIER) {
            workgroupBarrier();
        }
        if (some_rise(in, owned, owned_top, top)) {
            var maxima = head_maxima(in, owned);
            for (var h = 0u; h < GROUP; h++) { // unroll
                let new_top = max(top[h], maxima[h]);
                let rescale = exp(top[h] - new_top);
                top[h] = new_top;
                for (var i = 0u; i < VECS; i++) { // unroll
                    acc[h * VECS + i] *= rescale;
                }
                for (var j = 0u; j < OWNED; j++) { // unroll
                    if ((j * OWNERS + lane % OWNERS) % GROUP_PAD == h) {
                        owned_sum[j] *= rescale;
                        owned_top[j] = new_top;
                    }
                }
            }
        }
        for (var j = 0u; j < OWNED; j++) { // unroll
            let weight = exp(owned[j] - owned_top[j]);
            owned_sum[j] += weight;
            let kept = select(weight, 0.0, weight < WEIGHT_FLOOR);
            owned[j] = kept * decode_scale(tile.v_norms[j], params.scale_factor_d512);
        }
        owned_put(in, WEIGHTS_ROUND, owned);
        if (EXCHANGE_BARRIER) {
            workgroupBarrier();
        }

        // Phase 4: add the weighted V rows, with a floor only those that some query head keeps.
        for (var r = 0u; r < ROWS; r++) { // unroll
            var weights = array<f32, GROUP_PAD>();
            var kept = WEIGHT_FLOOR == 0.0;
            for (var h = 0u; h < GROUP; h++) { // unroll
                weights[h] = score_get(in, owned, r * GROUP_PAD + h);
                kept = kept || weights[h] != 0.0;
            }
            if (kept) {
                for (var i = 0u; i < VECS; i++) { // unroll
                    let bit = 4u * i * V_BITS;
                    let words = vec2(tile.v[r][bit / 32u], tile.v[r][min(bit / 32u + 1u, V_WORDS - 1u)]);
                    let x = centroids(four_codes(words, bit % 32u, V_BITS), V_BITS, V_BASE);
                    for (var h = 0u; h < GROUP; h++) { // unroll
                        acc[h * VECS + i] = fma(vec4(weights[h]), x, acc[h * VECS + i]);
                    }
                }
            }
        }
    }

    // Phase 5: merge the row groups, MERGE_HEADS query heads at a time, and store.
    if (lane < OWNERS) {
        for (var j = 0u; j < OWNED; j++) { // unroll
            merge_sum[row_group * SCORES + j * OWNERS + lane] = owned_sum[j];
        }
    }
    if (lane == 0u) {
        for (var h = 0u; h < GROUP; h++) { // unroll
            merge_max[row_group * GROUP_PAD + h] = top[h];
        }
    }
    workgroupBarrier();
    merge_weigh(tid);
    for (var batch = 0u; batch < GROUP; batch += MERGE_HEADS) { // unroll
        if (batch > 0u) {
            workgroupBarrier();
        }
        for (var h = batch; h < min(batch + MERGE_HEADS, GROUP); h++) { // unroll
            for (var i = 0u; i < VECS; i++) { // unroll
                let at = (row_group * MERGE_HEADS + h - batch) * HEAD_DIM + lane * COORDS;
                merge_acc[at / 4u + i] = acc[h * VECS + i];
            }
        }
        workgroupBarrier();
        let heads = min(MERGE_HEADS, max(end_head, first_head + batch) - first_head - batch);
        for (var x = tid; x < heads * (HEAD_DIM / 4u); x += WORKGROUP_SIZE) {
            let nth = x / (HEAD_DIM / 4u);
            store(first_head, batch + nth, nth, x % (HEAD_DIM / 4u), split);
        }
    }
}

// Stores vector f of the output of query head `first_head + h`, the `nth` of its batch, or of its
// partials with their pair.
fn store(first_head: u32, h: u32, nth: u32, f: u32, split: u32) {
    let acc = merged_acc(h, nth, f);
    let head = first_head + h;
    if (params.nwg == 1u) {
        let sum = merged_sum(h);
        for (var i = 0u; i < 4u; i++) { // unroll
            dst[head * HEAD_DIM + 4u * f + i] = select(acc[i] / sum, 0.0, sum == 0.0);
        }
        return;
    }
    for (var i = 0u; i < 4u; i++) { // unroll
        dst[partial_at(head, 4u * f + i, split, params.nwg)] = acc[i];
    }
    if (f == 0u) {
        let at = partial_pair_at(params.n_heads, head, split, params.nwg);
        dst[at] = merged_sum(h);
        dst[at + 1u] = merged_max(h);
    }
}
