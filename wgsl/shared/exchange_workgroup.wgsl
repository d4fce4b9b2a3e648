// How the LANES lanes of a row group exchange scores, through workgroup memory, for devices
// without subgroup operations. Score v is of row v / GROUP_PAD and query head v % GROUP_PAD. The
// lanes that are v % OWNERS modulo OWNERS own it, as their owned score v / OWNERS.
//
// The entry point puts the barriers, as many as a constant says, but for those of some_rise, which is
// called outside of loops. Every put has memory of its own, so one barrier after each is enough.

const EXCHANGE_BARRIERS = 1u; // between a put and what reads it

struct Invocation {
    tid: u32,
}

fn invocation(tid: u32) -> Invocation {
    return Invocation(tid);
}

var<workgroup> exchanged_scores: array<f32, SCORES * WORKGROUP_SIZE>;
var<workgroup> exchanged_owned: array<f32, EXCHANGE_ROUNDS * OWNED * WORKGROUP_SIZE>;
var<workgroup> exchanged_rises: array<u32, ROW_GROUPS>;

fn exchange_fits(in: Invocation) -> bool {
    return true;
}

fn scores_put(in: Invocation, scores: array<f32, SCORES>) {
    var x = scores;
    for (var v = 0u; v < SCORES; v++) { // unroll
        exchanged_scores[v * WORKGROUP_SIZE + in.tid] = x[v];
    }
}

// Sums of the owned scores over the lanes of a block.
fn block_sums(in: Invocation, scores: array<f32, SCORES>) -> array<f32, OWNED> {
    var owned = array<f32, OWNED>();
    for (var j = 0u; j < OWNED; j++) { // unroll
        let v = j * OWNERS + in.tid % OWNERS;
        let first = v * WORKGROUP_SIZE + in.tid / BLOCK_LANES * BLOCK_LANES;
        for (var l = 0u; l < BLOCK_LANES; l++) {
            owned[j] += exchanged_scores[first + l];
        }
    }
    return owned;
}

// Where the round's owned score j of lane 0 of the row group is.
fn exchanged_at(in: Invocation, round: u32, j: u32) -> u32 {
    return (round * OWNED + j) * WORKGROUP_SIZE + in.tid / LANES * LANES;
}

fn owned_put(in: Invocation, round: u32, owned: array<f32, OWNED>) {
    var x = owned;
    for (var j = 0u; j < OWNED; j++) { // unroll
        exchanged_owned[exchanged_at(in, round, j) + in.tid % LANES] = x[j];
    }
}

// Sums of the owned scores over the blocks.
fn row_sums(in: Invocation, owned: array<f32, OWNED>) -> array<f32, OWNED> {
    var sums = array<f32, OWNED>();
    for (var j = 0u; j < OWNED; j++) { // unroll
        for (var l = in.tid % BLOCK_LANES; l < LANES; l += BLOCK_LANES) {
            sums[j] += exchanged_owned[exchanged_at(in, BLOCKS_ROUND, j) + l];
        }
    }
    return sums;
}

// Largest score of each query head.
fn head_maxima(in: Invocation, owned: array<f32, OWNED>) -> array<f32, GROUP_PAD> {
    var maxima = array<f32, GROUP_PAD>();
    for (var h = 0u; h < GROUP; h++) { // unroll
        maxima[h] = NO_SCORE;
        for (var v = h; v < SCORES; v += GROUP_PAD) { // unroll
            let at = exchanged_at(in, MAXIMA_ROUND, v / OWNERS) + v % OWNERS;
            maxima[h] = max(maxima[h], exchanged_owned[at]);
        }
    }
    return maxima;
}

// Whether a score of the workgroup, the largest of which were put, was more than SLACK above what its
// weight is relative to. Every thread gets the same answer, since there are barriers in what follows.
fn some_rise(in: Invocation, running: ptr<function, Running>) -> bool {
    var maxima = head_maxima(in, (*running).owned_highest);
    var rises = false;
    for (var h = 0u; h < GROUP; h++) { // unroll
        rises = rises || maxima[h] > (*running).top[h] + SLACK;
    }
    if (in.tid % LANES == 0u) {
        exchanged_rises[in.tid / LANES] = u32(rises);
    }
    var all = workgroupUniformLoad(&exchanged_rises);
    var some = 0u;
    for (var g = 0u; g < ROW_GROUPS; g++) { // unroll
        some |= all[g];
    }
    return some != 0u;
}

// Weight v, from the lane of the same block that owns it.
fn score_get(in: Invocation, owned: array<f32, OWNED>, v: u32) -> f32 {
    let own_first = in.tid % LANES / OWNERS * OWNERS;
    return exchanged_owned[exchanged_at(in, WEIGHTS_ROUND, v / OWNERS) + own_first + v % OWNERS];
}

// Row groups become one by shuffles only: JOINED is 1.
fn join_max(x: f32) -> f32 {
    return x;
}
fn join_sum(x: f32) -> f32 {
    return x;
}
fn join_half(in: Invocation, even: vec4<f32>, odd: vec4<f32>, step: u32) -> vec4<f32> {
    return even;
}
