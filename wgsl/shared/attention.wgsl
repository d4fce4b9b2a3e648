// Row groups: how the kernels of one query token share the work, and how the parts are merged.
//
// A row group is LANES threads that score one position together; each lane owns COORDS
// contiguous coordinates of q, K, V and the accumulator. A workgroup has ROW_GROUPS row groups,
// each with its own running maximum, sum and accumulator for GROUP query heads of one KV head.

const COORDS = HEAD_DIM / LANES;
const VECS = COORDS / 4u;
const ROW_GROUPS = WORKGROUP_SIZE / LANES;
const MERGE_GROUPS = ROW_GROUPS / JOINED; // row groups, of which JOINED have become one

// What row groups hand to the merge: maxima and sums of all query heads here, accumulators of
// MERGE_HEADS at a time by acc_put and acc_get of another piece.
var<workgroup> merge_max: array<f32, MERGE_GROUPS * GROUP_PAD>;
var<workgroup> merge_sum: array<f32, MERGE_GROUPS * SUM_ROWS * GROUP_PAD>;

// What the merge makes of it: factors that bring row groups to the common maximum, and their sums
// with it.
var<workgroup> merge_factor: array<f32, MERGE_GROUPS * GROUP_PAD>;
var<workgroup> merge_part: array<f32, MERGE_GROUPS * GROUP_PAD>;

// What sums start from: 0, or NaN in a lane that could not add up its row group, so that the
// output is seen to be wrong and never only looks right.
fn sum_start(fits: bool) -> f32 {
    return bitcast<f32>(select(0x7fc00000u, 0u, fits));
}

// Maximum of query head h over the row groups.
fn merged_max(h: u32) -> f32 {
    var top = NO_SCORE;
    for (var g = 0u; g < MERGE_GROUPS; g++) { // unroll
        top = max(top, merge_max[g * GROUP_PAD + h]);
    }
    return top;
}

// Factors and sums, after maxima and sums are complete.
fn merge_weigh(tid: u32) {
    for (var x = tid; x < MERGE_GROUPS * GROUP; x += WORKGROUP_SIZE) {
        let g = x / GROUP;
        let h = x % GROUP;
        var sum = 0.0;
        for (var r = 0u; r < SUM_ROWS; r++) { // unroll
            sum += merge_sum[(g * SUM_ROWS + r) * GROUP_PAD + h];
        }
        let factor = exp(merge_max[g * GROUP_PAD + h] - merged_max(h));
        merge_factor[g * GROUP_PAD + h] = factor;
        merge_part[g * GROUP_PAD + h] = factor * sum;
    }
}

// Sum of query head h over the row groups, after merge_weigh.
fn merged_sum(h: u32) -> f32 {
    var sum = 0.0;
    for (var g = 0u; g < MERGE_GROUPS; g++) { // unroll
        sum += merge_part[g * GROUP_PAD + h];
    }
    return sum;
}

// Vector f of the accumulator of query head h, the `nth` of its batch, over the row groups.
fn merged_acc(h: u32, nth: u32, f: u32) -> vec4<f32> {
    var acc = vec4(0.0);
    for (var g = 0u; g < MERGE_GROUPS; g++) { // unroll
        let factor = merge_factor[g * GROUP_PAD + h];
        acc += factor * acc_get((g * MERGE_HEADS + nth) * (HEAD_DIM / 4u) + f);
    }
    return acc;
}
