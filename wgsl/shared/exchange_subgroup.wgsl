// How the LANES lanes of a row group exchange scores, by shuffles. Score v is of row v / GROUP_PAD
// and query head v % GROUP_PAD. The lanes that are v % OWNERS modulo OWNERS own it, as their
// owned score v / OWNERS.
//
// Needs LANES * JOINED <= subgroup size, and lanes that follow each other in the workgroup to follow each
// other in the subgroup.

const EXCHANGE_BARRIERS = 0u; // what was put is there at once

struct Invocation {
    tid: u32,
    subgroup_lane: u32,
}

// Call it before any lane has gone another way: the lane's number is how many are before it. The
// built-in of that name would be an argument of the entry point, which has none without subgroups.
fn invocation(tid: u32) -> Invocation {
    return Invocation(tid, subgroupExclusiveAdd(1u));
}

// Whether the shuffles reach the lanes they mean. They do not where subgroups are narrower than
// planned, or where threads fill them in another order.
fn exchange_fits(in: Invocation) -> bool {
    var fits = in.subgroup_lane % (LANES * JOINED) == in.tid % (LANES * JOINED);
    for (var step = 1u; step < LANES * JOINED; step <<= 1u) { // unroll
        let partner = subgroupShuffleXor(in.tid, step);
        fits = fits && partner == (in.tid ^ step);
    }
    return fits;
}

fn scores_put(in: Invocation, scores: array<f32, SCORES>) {
}

// Sums of the owned scores over the lanes of a block. A lane that still holds several scores keeps
// every other one and gives the rest to its partner, so that each step halves the work.
fn block_sums(in: Invocation, scores: array<f32, SCORES>) -> array<f32, OWNED> {
    var x = scores;
    for (var step = 1u; step < OWNERS; step <<= 1u) { // unroll
        let odd = (in.tid & step) != 0u;
        for (var j = 0u; j < SCORES / (2u * step); j++) { // unroll
            let keep = select(x[2u * j], x[2u * j + 1u], odd);
            let give = select(x[2u * j + 1u], x[2u * j], odd);
            x[j] = keep + subgroupShuffleXor(give, step);
        }
    }
    var owned = array<f32, OWNED>();
    for (var j = 0u; j < OWNED; j++) { // unroll
        owned[j] = x[j];
        for (var step = OWNERS; step < BLOCK_LANES; step <<= 1u) { // unroll
            owned[j] += subgroupShuffleXor(owned[j], step);
        }
    }
    return owned;
}

fn owned_put(in: Invocation, round: u32, owned: array<f32, OWNED>) {
}

// Sums of the owned scores over the blocks.
fn row_sums(in: Invocation, owned: array<f32, OWNED>) -> array<f32, OWNED> {
    var x = owned;
    for (var j = 0u; j < OWNED; j++) { // unroll
        for (var step = BLOCK_LANES; step < LANES; step <<= 1u) { // unroll
            x[j] += subgroupShuffleXor(x[j], step);
        }
    }
    return x;
}

// Whether an owned score of the subgroup was more than SLACK above what its weight is relative to.
fn some_rise(in: Invocation, running: ptr<function, Running>) -> bool {
    var rises = false;
    for (var j = 0u; j < OWNED; j++) { // unroll
        rises = rises || (*running).owned_highest[j] > (*running).owned_top[j] + SLACK;
    }
    return subgroupAny(rises);
}

// Largest score of each query head.
fn head_maxima(in: Invocation, owned: array<f32, OWNED>) -> array<f32, GROUP_PAD> {
    var x = owned;
    for (var j = HEADS_OWNED; j < OWNED; j++) { // unroll
        x[j % HEADS_OWNED] = max(x[j % HEADS_OWNED], x[j]);
    }
    for (var j = 0u; j < HEADS_OWNED; j++) { // unroll
        for (var step = GROUP_PAD; step < OWNERS; step <<= 1u) { // unroll
            x[j] = max(x[j], subgroupShuffleXor(x[j], step));
        }
    }
    var maxima = array<f32, GROUP_PAD>();
    for (var h = 0u; h < GROUP; h++) { // unroll
        maxima[h] = score_get(in, x, h);
    }
    return maxima;
}

// Score or weight v, from the lane of the same block that owns it.
fn score_get(in: Invocation, owned: array<f32, OWNED>, v: u32) -> f32 {
    var x = owned;
    return subgroupShuffle(x[v / OWNERS], in.subgroup_lane / OWNERS * OWNERS + v % OWNERS);
}

// Maximum, and sum, over the JOINED row groups that become one.
fn join_max(x: f32) -> f32 {
    var top = x;
    for (var step = 1u; step < JOINED; step <<= 1u) { // unroll
        top = max(top, subgroupShuffleXor(top, step * LANES));
    }
    return top;
}
fn join_sum(x: f32) -> f32 {
    var sum = x;
    for (var step = 1u; step < JOINED; step <<= 1u) { // unroll
        sum += subgroupShuffleXor(sum, step * LANES);
    }
    return sum;
}

// One of two vectors, with the partner's: the other one is the partner's to keep.
fn join_half(in: Invocation, even: vec4<f32>, odd: vec4<f32>, step: u32) -> vec4<f32> {
    let is_odd = (in.tid & (step * LANES)) != 0u;
    return select(even, odd, is_odd) + subgroupShuffleXor(select(odd, even, is_odd), step * LANES);
}
