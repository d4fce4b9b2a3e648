// Attention of row groups over packed K and V: the phases of the loop over positions, for the
// entry points that have one.
//
// The entry point has the parameters, row_at, the bindings and the barriers; see shared/attention.wgsl
// for row groups. Each handles ROWS positions at a time, a tile, and reads the next one before it
// computes. Weights are relative to the largest scores of the first tile, so that nothing in the loop
// rescales accumulators, for which drivers move registers about; where a later score is more than SLACK
// above, all is done in a second turn, relative to the largest scores of all. Pieces k_words, k_pairs or
// k_vectors, and the same of V, read a lane's codes; look_up_plain or look_up_table turn them into
// centroids.

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

const HIDDEN = -3.0e38; // score of a row past the end: far under any maximum
const SUM_ROWS = ROWS;  // sums of a query head that a row group hands to the merge

// How far a score may be above what its weight is relative to: exp of it, times as many positions and
// values as there may be, is far from overflow, and few contexts have such a score.
const SLACK = 32.0;

// What a lane reads of a tile.
struct Tile {
    k: array<array<u32, K_WORDS>, ROWS>,
    v: array<array<u32, V_WORDS>, ROWS>,
    k_norms: array<f32, OWNED>,
    v_norms: array<f32, OWNED>,
}

// What a lane carries from tile to tile.
struct Running {
    top: array<f32, GROUP_PAD>,       // what weights are relative to: the maximum, to within SLACK
    owned_top: array<f32, OWNED>,     // the same of the owned scores' heads
    owned_highest: array<f32, OWNED>, // largest of the owned scores
    owned_sum: array<f32, OWNED>,
    acc: array<vec4<f32>, GROUP * VECS>,
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

// Before the first tile; `start` is what sums start from.
fn nothing_seen(start: f32) -> Running {
    var running = Running();
    for (var h = 0u; h < GROUP; h++) { // unroll
        running.top[h] = NO_SCORE;
        for (var i = 0u; i < VECS; i++) { // unroll
            running.acc[h * VECS + i] = vec4(start);
        }
    }
    for (var j = 0u; j < OWNED; j++) { // unroll
        running.owned_top[j] = NO_SCORE;
        running.owned_highest[j] = NO_SCORE;
        running.owned_sum[j] = start;
    }
    return running;
}

// A lane's own part of the scores, by its coordinates.
fn lane_scores(
    tid: u32,
    tile: ptr<function, Tile>,
    query: ptr<function, array<vec4<f32>, GROUP * VECS>>,
) -> array<f32, SCORES> {
    var scores = array<f32, SCORES>();
    for (var r = 0u; r < ROWS; r++) { // unroll
        for (var i = 0u; i < VECS; i++) { // unroll
            let bit = 4u * i * K_BITS;
            let words = vec2((*tile).k[r][bit / 32u], (*tile).k[r][min(bit / 32u + 1u, K_WORDS - 1u)]);
            let x = k_centroids(words, bit % 32u, tid);
            for (var h = 0u; h < GROUP; h++) { // unroll
                scores[r * GROUP_PAD + h] = dot_add(x, (*query)[h * VECS + i], scores[r * GROUP_PAD + h]);
            }
        }
    }
    return scores;
}

// Owned sums over a block of coordinates, times the block's norm and the scale.
fn scaled_sums(tile: ptr<function, Tile>, sums: array<f32, OWNED>) -> array<f32, OWNED> {
    var owned = sums;
    for (var j = 0u; j < OWNED; j++) { // unroll
        owned[j] *= decode_scale((*tile).k_norms[j], params.scale_factor_d512) * params.scale;
    }
    return owned;
}

// Owned scores of the tile at `base` after the softcap, HIDDEN where there is no such score.
fn visible_scores(tid: u32, base: u32, end: u32, scores: array<f32, OWNED>) -> array<f32, OWNED> {
    var owned = scores;
    if (params.softcap > 0.0) { // one branch a tile, not one a score
        for (var j = 0u; j < OWNED; j++) { // unroll
            owned[j] = soften(owned[j], params.softcap);
        }
    }
    for (var j = 0u; j < OWNED; j++) { // unroll
        let v = j * OWNERS + tid % LANES % OWNERS;
        let visible = base + v / GROUP_PAD * ROW_GROUPS + tid / LANES < end && v % GROUP_PAD < GROUP;
        owned[j] = select(HIDDEN, owned[j], visible);
    }
    return owned;
}

// Makes weights relative to the largest of these scores and of those of the row groups that join this one.
fn set_top(in: Invocation, owned: array<f32, OWNED>, running: ptr<function, Running>) {
    var maxima = head_maxima(in, owned);
    for (var h = 0u; h < GROUP; h++) { // unroll
        (*running).top[h] = max(NO_SCORE, join_max(maxima[h]));
        for (var j = 0u; j < OWNED; j++) { // unroll
            if ((j * OWNERS + in.tid % LANES % OWNERS) % GROUP_PAD == h) {
                (*running).owned_top[j] = (*running).top[h];
            }
        }
    }
}

// Weights of the owned scores, added to their sums; they take V's norm along.
fn weigh(
    tile: ptr<function, Tile>,
    scores: array<f32, OWNED>,
    running: ptr<function, Running>,
) -> array<f32, OWNED> {
    var owned = scores;
    for (var j = 0u; j < OWNED; j++) { // unroll
        (*running).owned_highest[j] = max((*running).owned_highest[j], owned[j]);
        let weight = exp(owned[j] - (*running).owned_top[j]);
        (*running).owned_sum[j] += weight;
        let kept = select(weight, 0.0, weight < WEIGHT_FLOOR);
        owned[j] = kept * decode_scale((*tile).v_norms[j], params.scale_factor_d512);
    }
    return owned;
}

// Adds the weighted V rows, with a floor only those that some query head keeps.
fn add_rows(
    in: Invocation,
    tile: ptr<function, Tile>,
    owned: array<f32, OWNED>,
    running: ptr<function, Running>,
) {
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
                let words = vec2((*tile).v[r][bit / 32u], (*tile).v[r][min(bit / 32u + 1u, V_WORDS - 1u)]);
                let x = v_centroids(words, bit % 32u, in.tid);
                for (var h = 0u; h < GROUP; h++) { // unroll
                    (*running).acc[h * VECS + i] = fma(vec4(weights[h]), x, (*running).acc[h * VECS + i]);
                }
            }
        }
    }
}

// Makes one of every JOINED row groups that follow each other in a subgroup, whose weights are relative to
// the same. Each lane then has its sums of all of them, and of its accumulators those that merge_put_acc
// hands over, in front.
fn join(in: Invocation, running: ptr<function, Running>) {
    if (JOINED == 1u) {
        return;
    }
    for (var j = 0u; j < OWNED; j++) { // unroll
        (*running).owned_sum[j] = join_sum((*running).owned_sum[j]);
    }
    // A lane keeps every other vector and gives the rest to its partner: each step halves the work.
    for (var step = 1u; step < JOINED; step <<= 1u) { // unroll
        for (var j = 0u; j < GROUP * VECS / (2u * step); j++) { // unroll
            let even = (*running).acc[2u * j];
            let odd = (*running).acc[2u * j + 1u];
            (*running).acc[j] = join_half(in, even, odd, step);
        }
    }
}

// Hands the maxima and sums of a row group, or of those that have become one, to the merge.
fn merge_put(tid: u32, running: ptr<function, Running>) {
    let lane = tid % LANES;
    let group = tid / LANES / JOINED;
    if (tid / LANES % JOINED != 0u) {
        return;
    }
    if (lane < OWNERS) {
        for (var j = 0u; j < OWNED; j++) { // unroll
            merge_sum[group * SCORES + j * OWNERS + lane] = (*running).owned_sum[j];
        }
    }
    if (lane == 0u) {
        for (var h = 0u; h < GROUP; h++) { // unroll
            merge_max[group * GROUP_PAD + h] = (*running).top[h];
        }
    }
}

// Hands a lane's accumulators of query head h, the `nth` of its batch, to the merge: of the vectors of
// its coordinates every JOINED-th, from the number of its row group among those that have become one.
fn merge_put_acc(tid: u32, h: u32, nth: u32, running: ptr<function, Running>) {
    let group = tid / LANES / JOINED;
    let first = ((group * MERGE_HEADS + nth) * HEAD_DIM + tid % LANES * COORDS) / 4u + tid / LANES % JOINED;
    for (var i = 0u; i < VECS / JOINED; i++) { // unroll
        acc_put(first + i * JOINED, (*running).acc[h * (VECS / JOINED) + i]);
    }
}
