// Decode attention of one query token over packed K and V, in the rotated basis, with the products
// on cooperative matrices: K, V, q and the weights in f16, sums in f32.
//
// Workgroup (x, y): x = KV head and part of its query heads, y = split of the visible positions. A
// subgroup owns SUBGROUP_COORDS coordinates of BLOCKS blocks of BLOCK positions at a time; the subgroups
// of a position group share the positions, and the group keeps a running softmax of its own. q and the
// weights are exact to 22 bits: row h holds the upper half of query head h, row h + HEADS what is left
// of it. Either both are rows of one matrix, and the rows of the result are added, or they are two
// matrices, which add to one result. K and V are rounded to f16 as they are decoded into a subgroup's
// strip of workgroup memory, STRIP_COORDS coordinates a turn.
// Pieces k_words, k_pairs or k_vectors, and the same of V, read a lane's codes; look_up_plain, or
// look_up_table with look_up_singles, decode them; matrices_16 or matrices_8 give the matrices, and how
// values pass through workgroup memory.
// Contract: src/kernels/flash_attn_mat_tq.rs. Oracle: src/oracle/flash_attn_mat_tq.rs.

const BLOCK = 16u;                               // positions that are multiplied at a time
const HEADS = 8u;                                // query heads, each in two rows
const PARTS = 2u * HEADS / SIDE;                 // matrices that hold these rows
const COLUMNS = BLOCK / SIDE;                    // and the positions of a block
const SUBGROUP = 32u;
const SUBGROUPS = WORKGROUP_SIZE / SUBGROUP;
const RISES = (SUBGROUPS + 3u) / 4u;
const COORDS = 32u;                              // coordinates of a lane in a row
const LANES = HEAD_DIM / COORDS;                 // lanes that read a row
const SUBGROUP_COORDS = min(HEAD_DIM, 128u);
const ROW_SUBGROUPS = HEAD_DIM / SUBGROUP_COORDS; // subgroups that share a position
const POSITION_GROUPS = SUBGROUPS / ROW_SUBGROUPS;
const GROUP_POSITIONS = BLOCKS * BLOCK;          // positions that a position group handles at a time
const TILE = POSITION_GROUPS * GROUP_POSITIONS;  // and a workgroup
const WEIGHERS = HEADS * BLOCK;                  // threads that weigh a position group together
const OWN_GROUPS = POSITION_GROUPS * WEIGHERS / WORKGROUP_SIZE; // position groups that they weigh
const ROW_LANES = SUBGROUP_COORDS / COORDS;      // lanes of a subgroup that read a row
const LOAD_ROWS = SUBGROUP / ROW_LANES;          // rows that a subgroup reads at a time
const BLOCK_LOADS = BLOCK / LOAD_ROWS;
const LOADS = BLOCKS * BLOCK_LOADS;
const STRIP_COORDS = 64u;                         // columns of a strip
const TURNS = SUBGROUP_COORDS / STRIP_COORDS;  // in which a subgroup's coordinates pass through it
const TURN_VECS = COORDS / TURNS / 4u;          // vectors of a lane and row in a strip
const TURN_MATRICES = STRIP_COORDS / SIDE;
const MATRICES = TURNS * TURN_MATRICES;

const K_LANE_BITS = COORDS * K_BITS;
const V_LANE_BITS = COORDS * V_BITS;
const K_WORDS = K_LANE_BITS / 32u; // words that hold a lane's codes of one row
const V_WORDS = V_LANE_BITS / 32u;
const K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
const V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;

// Rows of what lanes put into workgroup memory are padded, which spreads them over its banks. In
// elements:
const FOUR = 4u / UNIT;
const STRIP_PITCH = (STRIP_COORDS + 8u) / UNIT;
const SUM_PITCH = BLOCK / UNIT;
const WEIGHT_PITCH = (BLOCK + 8u) / UNIT;
const STRIP = BLOCK * STRIP_PITCH;
const SUMS = SIDE * SUM_PITCH;
const WEIGHTS = 2u * HEADS * WEIGHT_PITCH;

const HIDDEN = -3.0e38; // score of a row past the end: far under any running maximum
const LEAST_SCALE = 1.0e-20; // of a V row, as far as the running maximum is concerned

// How far a score may rise above the running maximum before accumulators are rescaled: exp of it
// is far from what f16 can hold, and rescaling is rare.
const SLACK = 8.0;

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

var<workgroup> strips: array<Halves, SUBGROUPS * STRIP>;        // [subgroup][position][column]
var<workgroup> sums: array<Floats, SUBGROUPS * BLOCKS * SUMS>;  // [subgroup][block][row][column]
// [position group][block][norm][row][position]
var<workgroup> weights: array<Halves, POSITION_GROUPS * BLOCKS * NORMS_PER_POS * WEIGHTS>;
var<workgroup> factors: array<f32, POSITION_GROUPS * HEADS>;       // [position group][head]
var<workgroup> tops: array<f32, POSITION_GROUPS * HEADS>;          // [position group][head], at the end
var<workgroup> group_sums: array<f32, POSITION_GROUPS * HEADS>;    // the same
var<workgroup> head_sums: array<f32, HEADS>;
var<workgroup> rises: array<vec4<u32>, RISES>;                     // [subgroup / 4]

// What a lane reads of a tile.
struct Codes {
    k: array<array<u32, K_WORDS>, LOADS>,
    v: array<array<u32, V_WORDS>, LOADS>,
}

// What a thread reads of the norms of a tile: of the positions that it weighs.
struct Norms {
    k: array<array<f32, NORMS_PER_POS>, OWN_GROUPS * BLOCKS>,
    v: array<array<f32, NORMS_PER_POS>, OWN_GROUPS * BLOCKS>,
}

// Row of K and V of a position; rows past the end repeat the last one.
fn row_at(position: u32, end: u32, kv_head: u32) -> u32 {
    let slot = ring_slot(min(position, end - 1u), params.ring_start, params.kv_capacity);
    return kv_head * params.kv_capacity + slot;
}

// Reads the norms of the tile whose first position that this thread weighs is `position`.
fn norms_at(position: u32, end: u32, kv_head: u32) -> Norms {
    var norms = Norms();
    for (var i = 0u; i < OWN_GROUPS * BLOCKS; i++) { // unroll
        let row = row_at(position + i / BLOCKS * GROUP_POSITIONS + i % BLOCKS * BLOCK, end, kv_head);
        for (var n = 0u; n < NORMS_PER_POS; n++) { // unroll
            norms.k[i][n] = k_norms[row * NORMS_PER_POS + n];
            norms.v[i][n] = v_norms[row * NORMS_PER_POS + n];
        }
    }
    return norms;
}

// Coordinate, of those of a subgroup, of column x of its strip.
fn coordinate(turn: u32, x: u32) -> u32 {
    let vec = x / 4u;
    return vec % ROW_LANES * COORDS + (turn * TURN_VECS + vec / ROW_LANES) * 4u + x % 4u;
}

// Upper half of x, or what is left of it.
fn part(x: vec4<f32>, rest: bool) -> vec4<f16> {
    let upper = vec4<f16>(x);
    return select(upper, vec4<f16>(x - vec4<f32>(upper)), rest);
}

// Column x of a product for the query head whose upper half has the row that starts `at`.
fn get_head(at: u32, x: u32) -> f32 {
    if (PARTS == 1u) {
        return get_sum(at, x) + get_sum(at + HEADS * SUM_PITCH, x);
    }
    return get_sum(at, x);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
) {
    let lane = tid % SUBGROUP;
    let subgroup = tid / SUBGROUP;
    let position_group = subgroup / ROW_SUBGROUPS;
    let row_subgroup = subgroup % ROW_SUBGROUPS;
    let kv_head = workgroup.x / GROUPS_PER_KV;
    let first_head = kv_head * GQA + (workgroup.x % GROUPS_PER_KV) * GROUP;
    let heads = min(GROUP, (kv_head + 1u) * GQA - first_head);
    let split = workgroup.y;

    // A lane's part of a row, and its row among those that a subgroup reads at a time. Four lanes a
    // row: even rows first, since neighbours in memory would meet in its banks.
    let row_lane = row_subgroup * ROW_LANES + lane % ROW_LANES;
    let nth_row = lane / ROW_LANES;
    let load_row = select(nth_row, nth_row % 4u * 2u + nth_row / 4u, ROW_LANES == 4u);
    let strip = subgroup * STRIP;
    let put = strip + load_row * STRIP_PITCH + lane % ROW_LANES * FOUR;

    // The positions of this split: an equal contiguous part of the visible ones.
    // The first of them as first_visible has it: naga takes what a function returns for not uniform.
    let windowed = (params.mask_type == 2u) & (params.sliding_window > 0u) & (params.sliding_window < params.kv_seq_len);
    let first = select(0u, params.kv_seq_len - params.sliding_window, windowed);
    let span = (params.kv_seq_len - first + params.nwg - 1u) / params.nwg;
    let begin = min(first + split * span, params.kv_seq_len);
    let end = min(begin + span, params.kv_seq_len);

    // A thread weighs one position of one query head in each block of its position groups.
    let head = tid % WEIGHERS / BLOCK;
    let position = tid % BLOCK;
    let first_group = tid / WEIGHERS * OWN_GROUPS;
    let weighed_first = first_group * GROUP_POSITIONS + position;

    // Phase 1: first tile to registers, codebook to workgroup memory, q through the strips to
    // matrices.
    var codes = Codes();
    var norms = Norms();
    if (begin < end) {
        for (var l = 0u; l < LOADS; l++) { // unroll
            let row = row_at(begin + position_group * GROUP_POSITIONS + l * LOAD_ROWS + load_row, end, kv_head);
            codes.k[l] = k_words(row, row_lane);
            codes.v[l] = v_words(row, row_lane);
        }
        norms = norms_at(begin + weighed_first, end, kv_head);
    }
    codebook_fill(tid);
    for (var b = 0u; b < FILL_BARRIERS; b++) { // unroll
        workgroupBarrier();
    }
    look_up_fill(tid);
    var query = array<Left, PARTS * MATRICES>();
    var acc = array<Sum, MATRICES>();
    for (var turn = 0u; turn < TURNS; turn++) { // unroll
        // Two lanes a row.
        let q_head = first_head + min(lane / 2u % HEADS, heads - 1u);
        for (var i = 0u; i < STRIP_COORDS / 8u; i++) { // unroll
            let column = (lane % 2u * (STRIP_COORDS / 8u) + i) * 4u;
            let at = q_head * HEAD_DIM + row_subgroup * SUBGROUP_COORDS + coordinate(turn, column);
            let x = part(q[at / 4u], lane / 2u >= HEADS);
            put_strip(strip + lane / 2u * STRIP_PITCH + column / UNIT, select(vec4(0.0h), x, lane / 2u % HEADS < heads));
        }
        workgroupBarrier();
        for (var p = 0u; p < PARTS; p++) { // unroll
            for (var j = 0u; j < TURN_MATRICES; j++) { // unroll
                let at = strip + (p * SIDE * STRIP_PITCH + j * SIDE / UNIT);
                query[p * MATRICES + turn * TURN_MATRICES + j] = coopLoadT<Left>(&strips[at], STRIP_PITCH);
            }
        }
        workgroupBarrier();
    }

    var top = array<f32, OWN_GROUPS>(); // running maximum, to within SLACK
    var sum = array<f32, OWN_GROUPS>();
    for (var o = 0u; o < OWN_GROUPS; o++) { // unroll
        top[o] = NO_SCORE;
    }

    // A loop with its only exit at the end: drivers then keep what it carries in place.
    if (begin < end) {
        var base = begin;
        loop {
            // Phase 2: scores. A subgroup decodes K and adds up its coordinates; its next codes are read
            // as soon as their registers are free.
            for (var block = 0u; block < BLOCKS; block++) { // unroll
                var score = array<Sum, COLUMNS>();
                for (var turn = 0u; turn < TURNS; turn++) { // unroll
                    var decoded = array<vec4<f16>, TURN_VECS>();
                    for (var l = block * BLOCK_LOADS; l < (block + 1u) * BLOCK_LOADS; l++) { // unroll
                        for (var i = 0u; i < TURN_VECS; i++) { // unroll
                            let bit = 4u * (turn * TURN_VECS + i) * K_BITS;
                            let words = vec2(codes.k[l][bit / 32u], codes.k[l][min(bit / 32u + 1u, K_WORDS - 1u)]);
                            let x = vec4<f16>(k_centroids(words, bit % 32u, tid));
                            decoded[i] = x;
                        }
                        for (var i = 0u; i < TURN_VECS; i++) { // unroll
                            put_strip(put + l % BLOCK_LOADS * LOAD_ROWS * STRIP_PITCH + i * ROW_LANES * FOUR, decoded[i]);
                        }
                    }
                    if (turn == TURNS - 1u) {
                        for (var l = block * BLOCK_LOADS; l < (block + 1u) * BLOCK_LOADS; l++) { // unroll
                            let next = base + TILE + position_group * GROUP_POSITIONS + l * LOAD_ROWS + load_row;
                            codes.k[l] = k_words(row_at(next, end, kv_head), row_lane);
                        }
                    }
                    subgroupBarrier();
                    for (var j = 0u; j < TURN_MATRICES; j++) { // unroll
                        for (var c = 0u; c < COLUMNS; c++) { // unroll
                            let at = strip + (c * SIDE * STRIP_PITCH + j * SIDE / UNIT);
                            let k = coopLoad<Right>(&strips[at], STRIP_PITCH);
                            for (var p = 0u; p < PARTS; p++) { // unroll
                                score[c] = coopMultiplyAdd(query[p * MATRICES + turn * TURN_MATRICES + j], k, score[c]);
                            }
                        }
                    }
                    subgroupBarrier();
                }
                for (var c = 0u; c < COLUMNS; c++) { // unroll
                    let at = (subgroup * BLOCKS + block) * SUMS + c * SIDE / UNIT;
                    coopStoreT(score[c], &sums[at], SUM_PITCH);
                }
            }
            workgroupBarrier();

            // Phase 3: running softmax; scores become weights, which take V's norm along. So does the
            // running maximum: weights stay within f16 whatever the norms are.
            let read = norms;
            norms = norms_at(base + TILE + weighed_first, end, kv_head);
            var rise = false;
            for (var o = 0u; o < OWN_GROUPS; o++) { // unroll
                let g = first_group + o;
                var scores = array<f32, BLOCKS>();
                var v_scales = array<f32, BLOCKS * NORMS_PER_POS>();
                var highest = HIDDEN;
                for (var b = 0u; b < BLOCKS; b++) { // unroll
                    var s = 0.0;
                    for (var r = 0u; r < ROW_SUBGROUPS; r++) { // unroll
                        let at = ((g * ROW_SUBGROUPS + r) * BLOCKS + b) * SUMS + head * SUM_PITCH;
                        let both = get_head(at, position);
                        let norm = read.k[o * BLOCKS + b][r * NORMS_PER_POS / ROW_SUBGROUPS];
                        s += both * decode_scale(norm, params.scale_factor_d512);
                    }
                    s = select(HIDDEN, soften(s * params.scale, params.softcap), base + g * GROUP_POSITIONS + b * BLOCK + position < end);
                    scores[b] = s;
                    var largest = LEAST_SCALE;
                    for (var n = 0u; n < NORMS_PER_POS; n++) { // unroll
                        v_scales[b * NORMS_PER_POS + n] = decode_scale(read.v[o * BLOCKS + b][n], params.scale_factor_d512);
                        largest = max(largest, v_scales[b * NORMS_PER_POS + n]);
                    }
                    highest = max(highest, s + log(largest));
                }
                for (var step = 0u; step < 4u; step++) { // unroll
                    highest = max(highest, subgroupShuffleXor(highest, 1u << step));
                }
                var factor = 1.0;
                if (highest > top[o] + SLACK) {
                    factor = exp(top[o] - highest);
                    top[o] = highest;
                    sum[o] *= factor;
                    rise = true;
                }
                if (position == 0u) {
                    factors[g * HEADS + head] = factor;
                }
                for (var b = 0u; b < BLOCKS; b++) { // unroll
                    let weight = exp(scores[b] - top[o]);
                    sum[o] += weight;
                    for (var n = 0u; n < NORMS_PER_POS; n++) { // unroll
                        let at = ((g * BLOCKS + b) * NORMS_PER_POS + n) * WEIGHTS + head * WEIGHT_PITCH;
                        let whole = weight * v_scales[b * NORMS_PER_POS + n];
                        let upper = f16(whole);
                        put_weight(at, position, upper);
                        put_weight(at + HEADS * WEIGHT_PITCH, position, f16(whole - f32(upper)));
                    }
                }
            }
            let any_rise = subgroupAny(rise);
            if (lane == 0u) {
                rises[subgroup / 4u][subgroup % 4u] = u32(any_rise);
            }
            let risen = workgroupUniformLoad(&rises);
            if (any((risen[0] | risen[RISES - 1u]) != vec4(0u))) {
                for (var j = 0u; j < MATRICES; j++) { // unroll
                    let own = subgroup * BLOCKS * SUMS;
                    coopStoreT(acc[j], &sums[own], SUM_PITCH);
                    subgroupBarrier();
                    for (var x = lane; x < SIDE * SIDE / 4u; x += SUBGROUP) {
                        let row = x / (SIDE / 4u);
                        let at = own + row * SUM_PITCH + x % (SIDE / 4u) * FOUR;
                        put_sums(at, get_sums(at) * factors[position_group * HEADS + row % HEADS]);
                    }
                    subgroupBarrier();
                    acc[j] = coopLoadT<Sum>(&sums[own], SUM_PITCH);
                    subgroupBarrier();
                }
            }

            // Phase 4: add the weighted V rows.
            for (var block = 0u; block < BLOCKS; block++) { // unroll
                let own = (position_group * BLOCKS + block) * NORMS_PER_POS + row_subgroup * NORMS_PER_POS / ROW_SUBGROUPS;
                var weighed = array<Left, PARTS * COLUMNS>();
                for (var p = 0u; p < PARTS; p++) { // unroll
                    for (var c = 0u; c < COLUMNS; c++) { // unroll
                        let at = own * WEIGHTS + (p * SIDE * WEIGHT_PITCH + c * SIDE / UNIT);
                        weighed[p * COLUMNS + c] = coopLoadT<Left>(&weights[at], WEIGHT_PITCH);
                    }
                }
                for (var turn = 0u; turn < TURNS; turn++) { // unroll
                    var decoded = array<vec4<f16>, TURN_VECS>();
                    for (var l = block * BLOCK_LOADS; l < (block + 1u) * BLOCK_LOADS; l++) { // unroll
                        for (var i = 0u; i < TURN_VECS; i++) { // unroll
                            let bit = 4u * (turn * TURN_VECS + i) * V_BITS;
                            let words = vec2(codes.v[l][bit / 32u], codes.v[l][min(bit / 32u + 1u, V_WORDS - 1u)]);
                            let x = vec4<f16>(v_centroids(words, bit % 32u, tid));
                            decoded[i] = x;
                        }
                        for (var i = 0u; i < TURN_VECS; i++) { // unroll
                            put_strip(put + l % BLOCK_LOADS * LOAD_ROWS * STRIP_PITCH + i * ROW_LANES * FOUR, decoded[i]);
                        }
                    }
                    if (turn == TURNS - 1u) {
                        for (var l = block * BLOCK_LOADS; l < (block + 1u) * BLOCK_LOADS; l++) { // unroll
                            let next = base + TILE + position_group * GROUP_POSITIONS + l * LOAD_ROWS + load_row;
                            codes.v[l] = v_words(row_at(next, end, kv_head), row_lane);
                        }
                    }
                    subgroupBarrier();
                    for (var j = turn * TURN_MATRICES; j < (turn + 1u) * TURN_MATRICES; j++) { // unroll
                        for (var c = 0u; c < COLUMNS; c++) { // unroll
                            let at = strip + (c * SIDE * STRIP_PITCH + j % TURN_MATRICES * SIDE / UNIT);
                            let v = coopLoadT<Right>(&strips[at], STRIP_PITCH);
                            for (var p = 0u; p < PARTS; p++) { // unroll
                                acc[j] = coopMultiplyAdd(weighed[p * COLUMNS + c], v, acc[j]);
                            }
                        }
                    }
                    subgroupBarrier();
                }
            }

            continuing {
                base += TILE;
                break if base >= end;
            }
        }
    }

    // Phase 5: merge the position groups, a matrix at a time, and store.
    for (var o = 0u; o < OWN_GROUPS; o++) { // unroll
        for (var step = 0u; step < 4u; step++) { // unroll
            sum[o] += subgroupShuffleXor(sum[o], 1u << step);
        }
        if (position == 0u) {
            tops[(first_group + o) * HEADS + head] = top[o];
            group_sums[(first_group + o) * HEADS + head] = sum[o];
        }
    }
    workgroupBarrier();
    if (tid < HEADS) {
        var highest = NO_SCORE;
        for (var g = 0u; g < POSITION_GROUPS; g++) { // unroll
            highest = max(highest, tops[g * HEADS + tid]);
        }
        var total = 0.0;
        for (var g = 0u; g < POSITION_GROUPS; g++) { // unroll
            let factor = exp(tops[g * HEADS + tid] - highest);
            total += group_sums[g * HEADS + tid] * factor;
            factors[g * HEADS + tid] = factor;
        }
        head_sums[tid] = total;
        if (tid < heads && params.nwg > 1u) {
            let at = partial_pair_at(params.n_heads, first_head + tid, split, params.nwg);
            dst[at] = total;
            dst[at + 1u] = highest;
        }
    }
    for (var j = 0u; j < MATRICES; j++) { // unroll
        coopStoreT(acc[j], &sums[subgroup * BLOCKS * SUMS], SUM_PITCH);
        workgroupBarrier();
        for (var x = tid; x < heads * ROW_SUBGROUPS * SIDE; x += WORKGROUP_SIZE) {
            store(first_head, x / SIDE / ROW_SUBGROUPS, x / SIDE % ROW_SUBGROUPS, j, x % SIDE, split);
        }
        workgroupBarrier();
    }
}

// Stores column x of matrix j of a row subgroup: of the output of query head `first_head + h`, or of
// its partials.
fn store(first_head: u32, h: u32, row_subgroup: u32, j: u32, x: u32, split: u32) {
    var value = 0.0;
    for (var g = 0u; g < POSITION_GROUPS; g++) { // unroll
        let at = (g * ROW_SUBGROUPS + row_subgroup) * BLOCKS * SUMS + h * SUM_PITCH;
        value += factors[g * HEADS + h] * get_head(at, x);
    }
    let turn = j / TURN_MATRICES;
    let c = row_subgroup * SUBGROUP_COORDS + coordinate(turn, j % TURN_MATRICES * SIDE + x);
    let head = first_head + h;
    if (params.nwg == 1u) {
        dst[head * HEAD_DIM + c] = select(value / head_sums[h], 0.0, head_sums[h] == 0.0);
    } else {
        dst[partial_at(head, c, split, params.nwg)] = value;
    }
}
