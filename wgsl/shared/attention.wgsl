// Row groups: how the kernels of one query token share the work, and how the parts are merged.
//
// A row group is LANES threads that score one position together; each lane owns COORDS
// contiguous coordinates of q, K, V and the accumulator. A workgroup has ROW_GROUPS row groups,
// each with its own running maximum, sum and accumulator for GROUP query heads of one KV head.

const COORDS = HEAD_DIM / LANES;
const VECS = COORDS / 4u;
const ROW_GROUPS = WORKGROUP_SIZE / LANES;

var<workgroup> merge_acc: array<f32, ROW_GROUPS * HEAD_DIM>;
var<workgroup> merge_max: array<f32, ROW_GROUPS>;
var<workgroup> merge_sum: array<f32, ROW_GROUPS>;

// What sums start from: 0, or NaN in a lane that could not add up its row group, so that the
// output is seen to be wrong and never only looks right.
fn sum_start(fits: bool) -> f32 {
    return bitcast<f32>(select(0x7fc00000u, 0u, fits));
}

// Largest running maximum of the row groups, after merge_max is complete.
fn merged_max() -> f32 {
    var top = NO_SCORE;
    for (var i = 0u; i < ROW_GROUPS; i++) {
        top = max(top, merge_max[i]);
    }
    return top;
}

// Sum of the row groups' sums, each brought to the common maximum.
fn merged_sum(top: f32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < ROW_GROUPS; i++) {
        sum += merge_sum[i] * exp(merge_max[i] - top);
    }
    return sum;
}

// Sum of one coordinate over the row groups.
fn merged_acc(c: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < ROW_GROUPS; i++) {
        sum += merge_acc[i * HEAD_DIM + c];
    }
    return sum;
}
