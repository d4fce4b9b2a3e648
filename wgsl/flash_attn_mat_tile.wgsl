// Attention of several query tokens of several sequences over a paged cache, packed or dense, with the
// products on cooperative matrices: q, K, V and the weights in f16, sums in f32.
//
// A query is one query head of one token. Workgroup (x, y, z): x = tile of QUERIES queries that
// share a KV head, y = KV head and split of the positions, z = sequence. K and V are rounded to f16 in
// workgroup memory, BLOCK positions at a time, so that a row is decoded once for the whole tile. A
// subgroup owns SUBGROUP_COORDS coordinates of GROUP_QUERIES queries; the subgroups of a query group
// share its queries. The norms of packed rows stay out of the products: a score is scaled by K's, a
// weight takes V's along.
// Pieces matrices_16 or matrices_8 give the matrices, and how values pass through workgroup memory.
// Contract: src/kernels/flash_attn_mat_tile.rs. Oracle: src/oracle/flash_attn_mat_tile.rs.

const SUBGROUP = 32u;
const SUBGROUPS = WORKGROUP_SIZE / SUBGROUP;
const RISES = (SUBGROUPS + 3u) / 4u;
const SUBGROUP_COORDS = min(HEAD_DIM, 128u);
const ROW_SUBGROUPS = HEAD_DIM / SUBGROUP_COORDS; // subgroups that share a query
const GROUP_QUERIES = 16u;
const QUERIES = SUBGROUPS / ROW_SUBGROUPS * GROUP_QUERIES;
const ROWS = GROUP_QUERIES / SIDE;        // matrices that hold the queries of a group
const COLUMNS = BLOCK / SIDE;             // and the positions of a block
const MATRICES = SUBGROUP_COORDS / SIDE;  // and the coordinates of a subgroup
const OCTETS = HEAD_DIM / 8u;
const LOADS = BLOCK * OCTETS / WORKGROUP_SIZE; // octets of a block that a thread reads
const K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
const V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;

// Lanes that weigh the positions of a query, each as many fours of them.
const ROW_LANES = min(SUBGROUP * ROW_SUBGROUPS / GROUP_QUERIES, BLOCK / 4u);
const LANE_FOURS = BLOCK / ROW_LANES / 4u;

const FOURS = WORKGROUP_SIZE / 4u; // of positions that are located at a time, one by each thread

// Rows of what passes through workgroup memory are padded, which spreads them over its banks. In
// elements:
const FOUR = 4u / UNIT;
const STRIP_PITCH = (HEAD_DIM + 8u) / UNIT;
const SUM_PITCH = (BLOCK + 4u) / UNIT;
const WEIGHT_PITCH = (BLOCK + 8u) / UNIT;
const SUMS = GROUP_QUERIES * SUM_PITCH;        // of a subgroup
const WEIGHTS = GROUP_QUERIES * WEIGHT_PITCH;  // of a query group and norm

// On their way into matrices, queries lie where K and V will: those that BLOCK rows do not hold beside
// each other, in as many turns.
const TURNS = (QUERIES + BLOCK - 1u) / BLOCK;
const TURN_COORDS = SUBGROUP_COORDS / TURNS; // of each subgroup
const TURN_ROW = HEAD_DIM / TURNS;           // of all that share a query

const HIDDEN = -3.0e38; // score of a position that a query does not see: far under any running maximum
const LEAST_SCALE = 1.0e-20; // of a V row, as far as the running maximum is concerned

// How far a score may rise above the running maximum before accumulators are rescaled: exp of it
// is far from what f16 can hold, and rescaling is rare.
const SLACK = 8.0;

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

var<workgroup> range: vec2<u32>;                                    // positions of this workgroup
var<workgroup> cache_rows: array<u32, WORKGROUP_SIZE>;              // [position]
var<workgroup> k_scales: array<vec4<f32>, NORMS_PER_POS * FOURS>;   // [norm][position / 4]
var<workgroup> v_scales: array<vec4<f32>, NORMS_PER_POS * FOURS>;   // [norm][position / 4]
var<workgroup> v_logs: array<vec4<f32>, FOURS>;                     // [position / 4] of the largest scale
var<workgroup> strips: array<Halves, BLOCK * STRIP_PITCH>;   // [position][coord] of K, then of V
var<workgroup> sums: array<Floats, SUBGROUPS * SUMS>;        // [subgroup][query][position]
// [query group][norm][query][position]
var<workgroup> weights: array<Halves, QUERIES / GROUP_QUERIES * NORMS_PER_POS * WEIGHTS>;
var<workgroup> factors: array<f32, QUERIES>;                        // [query]; at the end sums
var<workgroup> rises: array<vec4<u32>, RISES>;                      // [subgroup / 4]

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

// Row of q and of the output of query i of the tile's KV head.
fn query_row(sequence: Sequence, kv_head: u32, i: u32) -> u32 {
    let token = min(sequence.first_token + i / GQA, params.num_tokens - 1u);
    return token * params.n_heads + kv_head * GQA + i % GQA;
}

// What a thread reads of a block of K or V: the words of LOADS octets, as many of the eight as these
// have.
alias Words = array<array<u32, 8>, LOADS>;

// Of the block whose first position is `first` of those located.
fn k_words(tid: u32, first: u32) -> Words {
    var words = Words();
    for (var l = 0u; l < LOADS; l++) { // unroll
        let x = l * WORKGROUP_SIZE + tid;
        let bit = x % OCTETS * 8u * K_BITS;
        let w = cache_rows[first + x / OCTETS] * K_ROW_WORDS + bit / 32u;
        for (var i = 0u; i < max(2u, K_BITS / 4u); i++) { // unroll
            words[l][i] = k[w + select(i, i * second_word(bit, K_BITS), K_BITS < 16u)];
        }
    }
    return words;
}

fn v_words(tid: u32, first: u32) -> Words {
    var words = Words();
    for (var l = 0u; l < LOADS; l++) { // unroll
        let x = l * WORKGROUP_SIZE + tid;
        let bit = x % OCTETS * 8u * V_BITS;
        let w = cache_rows[first + x / OCTETS] * V_ROW_WORDS + bit / 32u;
        for (var i = 0u; i < max(2u, V_BITS / 4u); i++) { // unroll
            words[l][i] = v[w + select(i, i * second_word(bit, V_BITS), V_BITS < 16u)];
        }
    }
    return words;
}

// Puts them where matrices are loaded from, rounded to f16 and without their norms.
fn stage(tid: u32, words: Words, bits: u32, base: u32) {
    for (var l = 0u; l < LOADS; l++) { // unroll
        let x = l * WORKGROUP_SIZE + tid;
        let octet = octet_of(words[l], x % OCTETS * 8u * bits, bits, base);
        let at = x / OCTETS * STRIP_PITCH + x % OCTETS * 2u * FOUR;
        put_strip(at, vec4<f16>(octet.lo));
        put_strip(at + FOUR, vec4<f16>(octet.hi));
    }
}

fn octet_of(words: array<u32, 8>, bit: u32, bits: u32, base: u32) -> Octet {
    if (bits == 32u) {
        return octet_of_floats(
            vec4(words[0], words[1], words[2], words[3]), vec4(words[4], words[5], words[6], words[7]));
    }
    if (bits == 16u) {
        return octet_of_halves(vec4(words[0], words[1], words[2], words[3]));
    }
    return octet_of_codes(vec2(words[0], words[1]), bit, bits, base, 1.0);
}

// A thread a position: its row in the cache, and what packed rows are to be multiplied by.
fn locate(tid: u32, row: u32) {
    var largest = LEAST_SCALE;
    cache_rows[tid] = row;
    for (var n = 0u; n < NORMS_PER_POS; n++) { // unroll
        var k_scale = 1.0;
        if (K_BITS < 16u) {
            k_scale = decode_scale(k_norms[row * NORMS_PER_POS + n], params.scale_factor_d512);
        }
        var v_scale = 1.0;
        if (V_BITS < 16u) {
            v_scale = decode_scale(v_norms[row * NORMS_PER_POS + n], params.scale_factor_d512);
        }
        k_scales[n * FOURS + tid / 4u][tid % 4u] = k_scale;
        v_scales[n * FOURS + tid / 4u][tid % 4u] = v_scale;
        largest = max(largest, v_scale);
    }
    v_logs[tid / 4u][tid % 4u] = log(largest);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
) {
    let sequence = sequences[workgroup.z];
    let kv_head = workgroup.y / params.splits;
    let split = workgroup.y % params.splits;
    let lane = tid % SUBGROUP;
    let subgroup = tid / SUBGROUP;
    let group = subgroup / ROW_SUBGROUPS;
    let row_subgroup = subgroup % ROW_SUBGROUPS;
    let first_query = workgroup.x * QUERIES;
    let num_queries = sequence.query_tokens * GQA;
    if (first_query >= num_queries) {
        return;
    }

    // Phase 1: codebook to workgroup memory; the positions of this split that the tile sees; q through
    // the strips to matrices. A split is an equal contiguous part of what the sequence sees.
    codebook_fill(tid);
    let last_query = min(first_query + QUERIES, num_queries) - 1u;
    let all_begin = visible(sequence.kv_seq_len, sequence.position).x;
    let all_end = visible(sequence.kv_seq_len, sequence.position + sequence.query_tokens - 1u).y;
    let span = (all_end - all_begin + params.splits - 1u) / params.splits;
    let split_begin = min(all_begin + split * span, all_end);
    let split_end = min(split_begin + span, all_end);
    if (tid == 0u) {
        let first_seen = visible(sequence.kv_seq_len, sequence.position + first_query / GQA).x;
        let last_seen = visible(sequence.kv_seq_len, sequence.position + last_query / GQA).y;
        range = vec2(max(split_begin, first_seen), min(split_end, last_seen));
    }
    // All threads have the same, but naga takes what a function returns for different.
    let whole = workgroupUniformLoad(&range);
    let begin = whole.x;
    let end = whole.y;

    // Queries past the last repeat it and are not stored.
    var query = array<Left, ROWS * MATRICES>();
    for (var turn = 0u; turn < TURNS; turn++) { // unroll
        for (var l = 0u; l < BLOCK * HEAD_DIM / 4u / WORKGROUP_SIZE; l++) { // unroll
            let x = l * WORKGROUP_SIZE + tid;
            let i = x / (TURN_ROW / 4u);
            let column = x % (TURN_ROW / 4u) * 4u;
            let c = column / TURN_COORDS * SUBGROUP_COORDS + turn * TURN_COORDS + column % TURN_COORDS;
            let row = query_row(sequence, kv_head, min(first_query + i, last_query));
            let at = i % BLOCK * STRIP_PITCH + (i / BLOCK * TURN_ROW + column) / UNIT;
            put_strip(at, vec4<f16>(q[(row * HEAD_DIM + c) / 4u]));
        }
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r++) { // unroll
            let i = group * GROUP_QUERIES + r * SIDE;
            let at = i % BLOCK * STRIP_PITCH + (i / BLOCK * TURN_ROW + row_subgroup * TURN_COORDS) / UNIT;
            for (var j = 0u; j < TURN_COORDS / SIDE; j++) { // unroll
                query[r * MATRICES + turn * TURN_COORDS / SIDE + j] =
                    coopLoadT<Left>(&strips[at + j * SIDE / UNIT], STRIP_PITCH);
            }
        }
        workgroupBarrier();
    }

    let strip = row_subgroup * (SUBGROUP_COORDS / UNIT); // where this subgroup's coordinates are in a row

    // Lanes that have no query to weigh do as the first ones do, and write nothing.
    let group_lane = tid % (SUBGROUP * ROW_SUBGROUPS);
    let weighs = group_lane < GROUP_QUERIES * ROW_LANES;
    let row = group_lane / ROW_LANES % GROUP_QUERIES;
    let row_lane = group_lane % ROW_LANES;
    let own_query = min(first_query + group * GROUP_QUERIES + row, last_query);
    let all_seen = visible(sequence.kv_seq_len, sequence.position + own_query / GQA);
    let sees = vec2(all_seen.x, min(all_seen.y, end));
    var top = NO_SCORE; // running maximum, to within SLACK
    var sum = 0.0;
    var acc = array<Sum, ROWS * MATRICES>();

    // Loops with their only exit at the end: drivers then keep what they carry in place.
    if (begin < end) {
        var located = begin;
        loop {
            // Positions past the end repeat the last one and get no weight.
            locate(tid, cache_row(sequence, kv_head, min(located + tid, end - 1u)));
            workgroupBarrier();
            let stop = min(located + WORKGROUP_SIZE, end);
            var base = located;
            var codes = k_words(tid, 0u);
            loop {
                // Phase 2: scores. V is read meanwhile.
                stage(tid, codes, K_BITS, 0u);
                workgroupBarrier();
                codes = v_words(tid, base - located);
                var score = array<Sum, ROWS * COLUMNS>();
                for (var j = 0u; j < MATRICES; j++) { // unroll
                    for (var b = 0u; b < COLUMNS; b++) { // unroll
                        let at = strip + (b * SIDE * STRIP_PITCH + j * SIDE / UNIT);
                        let k = coopLoad<Right>(&strips[at], STRIP_PITCH);
                        for (var r = 0u; r < ROWS; r++) { // unroll
                            score[r * COLUMNS + b] = coopMultiplyAdd(query[r * MATRICES + j], k, score[r * COLUMNS + b]);
                        }
                    }
                }
                for (var r = 0u; r < ROWS; r++) { // unroll
                    for (var b = 0u; b < COLUMNS; b++) { // unroll
                        let at = subgroup * SUMS + (r * SIDE * SUM_PITCH + b * SIDE / UNIT);
                        coopStoreT(score[r * COLUMNS + b], &sums[at], SUM_PITCH);
                    }
                }
                workgroupBarrier();

                // Phase 3: running softmax, which turns scores into weights that take V's norm along. So does
                // the running maximum: weights stay within f16 whatever the norms are. V takes K's place.
                var scores = array<vec4<f32>, LANE_FOURS>();
                var highest = HIDDEN;
                for (var f = 0u; f < LANE_FOURS; f++) { // unroll
                    let four = row_lane * LANE_FOURS + f;
                    var s = vec4(0.0);
                    for (var r = 0u; r < ROW_SUBGROUPS; r++) { // unroll
                        let at = (group * ROW_SUBGROUPS + r) * SUMS + row * SUM_PITCH + four * FOUR;
                        s += get_sums(at) * k_scales[r * NORMS_PER_POS / ROW_SUBGROUPS * FOURS + (base - located) / 4u + four];
                    }
                    s *= params.scale;
                    if (params.softcap > 0.0) {
                        s = vec4(soften(s.x, params.softcap), soften(s.y, params.softcap),
                            soften(s.z, params.softcap), soften(s.w, params.softcap));
                    }
                    let i = base + four * 4u + vec4(0u, 1u, 2u, 3u);
                    if (base < sees.x || base + BLOCK > sees.y) {
                        s = select(vec4(HIDDEN), s, (i >= vec4(sees.x)) & (i < vec4(sees.y)));
                    }
                    scores[f] = s;
                    let upper = scores[f] + v_logs[(base - located) / 4u + four];
                    highest = max(highest, max(max(upper.x, upper.y), max(upper.z, upper.w)));
                }
                for (var step = 1u; step < ROW_LANES; step <<= 1u) { // unroll
                    highest = max(highest, subgroupShuffleXor(highest, step));
                }
                var factor = 1.0;
                var rise = false;
                if (highest > top + SLACK) {
                    // Before anything was seen there is nothing to rescale.
                    rise = top > NO_SCORE;
                    factor = exp(top - highest);
                    top = highest;
                    sum *= factor;
                }
                if (weighs && row_lane == 0u) {
                    factors[group * GROUP_QUERIES + row] = factor;
                }
                for (var f = 0u; f < LANE_FOURS; f++) { // unroll
                    let four = row_lane * LANE_FOURS + f;
                    let weight = exp(scores[f] - top);
                    sum += weight.x + weight.y + weight.z + weight.w;
                    for (var n = 0u; n < NORMS_PER_POS; n++) { // unroll
                        let at = (group * NORMS_PER_POS + n) * WEIGHTS + row * WEIGHT_PITCH + four * FOUR;
                        if (weighs) {
                            put_weights(at, vec4<f16>(weight * v_scales[n * FOURS + (base - located) / 4u + four]));
                        }
                    }
                }
                stage(tid, codes, V_BITS, V_BASE);
                let any_rise = subgroupAny(rise);
                if (lane == 0u) {
                    rises[subgroup / 4u][subgroup % 4u] = u32(any_rise);
                }
                let risen = workgroupUniformLoad(&rises);
                if (any((risen[0] | risen[RISES - 1u]) != vec4(0u))) {
                    for (var j = 0u; j < ROWS * MATRICES; j++) { // unroll
                        let own = subgroup * SUMS;
                        coopStoreT(acc[j], &sums[own], SUM_PITCH);
                        subgroupBarrier();
                        for (var x = lane; x < SIDE * SIDE / 4u; x += SUBGROUP) {
                            let y = x / (SIDE / 4u);
                            let at = own + y * SUM_PITCH + x % (SIDE / 4u) * FOUR;
                            put_sums(at, get_sums(at) * factors[group * GROUP_QUERIES + j / MATRICES * SIDE + y]);
                        }
                        subgroupBarrier();
                        acc[j] = coopLoadT<Sum>(&sums[own], SUM_PITCH);
                        subgroupBarrier();
                    }
                }

                // Phase 4: add the weighted V rows. The next K is read meanwhile.
                if (base + BLOCK < stop) {
                    codes = k_words(tid, base + BLOCK - located);
                }
                for (var b = 0u; b < COLUMNS; b++) { // unroll
                    let own = group * NORMS_PER_POS + row_subgroup * NORMS_PER_POS / ROW_SUBGROUPS;
                    var weighed = array<Left, ROWS>();
                    for (var r = 0u; r < ROWS; r++) { // unroll
                        let at = own * WEIGHTS + (r * SIDE * WEIGHT_PITCH + b * SIDE / UNIT);
                        weighed[r] = coopLoadT<Left>(&weights[at], WEIGHT_PITCH);
                    }
                    for (var j = 0u; j < MATRICES; j++) { // unroll
                        let at = strip + (b * SIDE * STRIP_PITCH + j * SIDE / UNIT);
                        let v = coopLoadT<Right>(&strips[at], STRIP_PITCH);
                        for (var r = 0u; r < ROWS; r++) { // unroll
                            acc[r * MATRICES + j] = coopMultiplyAdd(weighed[r], v, acc[r * MATRICES + j]);
                        }
                    }
                }

                // All have read what the next K takes the place of.
                workgroupBarrier();

                continuing {
                    base += BLOCK;
                    break if base >= stop;
                }
            }

            continuing {
                located += WORKGROUP_SIZE;
                break if located >= end;
            }
        }
    }

    // Phase 5: add up the lanes' sums, and store, BLOCK coordinates at a time.
    for (var step = 1u; step < ROW_LANES; step <<= 1u) { // unroll
        sum += subgroupShuffleXor(sum, step);
    }
    let slot = params.split_base + split;
    if (weighs && row_lane == 0u) {
        factors[group * GROUP_QUERIES + row] = sum;
        if (params.nwg > 1u && first_query + group * GROUP_QUERIES + row <= last_query) {
            let rows = params.num_tokens * params.n_heads;
            let at = partial_pair_at(rows, query_row(sequence, kv_head, own_query), slot, params.nwg);
            dst[at] = sum;
            dst[at + 1u] = top;
        }
    }
    workgroupBarrier();
    for (var j = 0u; j < MATRICES; j += COLUMNS) { // unroll
        for (var r = 0u; r < ROWS; r++) { // unroll
            for (var b = 0u; b < COLUMNS; b++) { // unroll
                let at = subgroup * SUMS + (r * SIDE * SUM_PITCH + b * SIDE / UNIT);
                coopStoreT(acc[r * MATRICES + j + b], &sums[at], SUM_PITCH);
            }
        }
        subgroupBarrier();
        for (var x = lane; x < GROUP_QUERIES * BLOCK; x += SUBGROUP) {
            let i = first_query + group * GROUP_QUERIES + x / BLOCK;
            if (i <= last_query) {
                let value = get_sum(subgroup * SUMS + x / BLOCK * SUM_PITCH, x % BLOCK);
                let all_sum = factors[group * GROUP_QUERIES + x / BLOCK];
                let c = row_subgroup * SUBGROUP_COORDS + j * SIDE + x % BLOCK;
                let row = query_row(sequence, kv_head, i);
                if (params.nwg == 1u) {
                    dst[row * HEAD_DIM + c] = select(value / all_sum, 0.0, all_sum == 0.0);
                } else {
                    dst[partial_at(row, c, slot, params.nwg)] = value;
                }
            }
        }
        subgroupBarrier();
    }
}
