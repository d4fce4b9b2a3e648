// Row groups: how the kernels of one query token share the work, and how the parts are merged.
//
// A row group is LANES threads that score one position together; each lane owns COORDS
// contiguous coordinates of q, K, V and the accumulator. A workgroup has ROW_GROUPS row groups,
// each with its own running maximum, sum and accumulator for GROUP query heads of one KV head.

const COORDS = HEAD_DIM / LANES;
const VECS = COORDS / 4u;
const ROW_GROUPS = WORKGROUP_SIZE / LANES;

// What row groups hand to the merge, MERGE_HEADS query heads at a time; sums of all heads.
var<workgroup> merge_acc: array<vec4<f32>, ROW_GROUPS * MERGE_HEADS * HEAD_DIM / 4u>;
var<workgroup> merge_max: array<f32, ROW_GROUPS * MERGE_HEADS>;
var<workgroup> merge_sum: array<f32, ROW_GROUPS * SUM_ROWS * GROUP_PAD>;

// What sums start from: 0, or NaN in a lane that could not add up its row group, so that the
// output is seen to be wrong and never only looks right.
fn sum_start(fits: bool) -> f32 {
    return bitcast<f32>(select(0x7fc00000u, 0u, fits));
}

// One coordinate of a query head over all row groups, each brought to the common maximum.
struct Merged {
    acc: f32,
    sum: f32,
    top: f32,
}

// Coordinate c of query head `batch + h`, after the merge arrays are complete.
fn merged_at(batch: u32, h: u32, c: u32) -> Merged {
    var merged = Merged(0.0, 0.0, NO_SCORE);
    for (var g = 0u; g < ROW_GROUPS; g++) {
        merged.top = max(merged.top, merge_max[g * MERGE_HEADS + h]);
    }
    for (var g = 0u; g < ROW_GROUPS; g++) {
        let at = g * MERGE_HEADS + h;
        let factor = exp(merge_max[at] - merged.top);
        merged.acc += factor * merge_acc[(at * HEAD_DIM + c) / 4u][c % 4u];
        for (var r = 0u; r < SUM_ROWS; r++) {
            merged.sum += factor * merge_sum[(g * SUM_ROWS + r) * GROUP_PAD + batch + h];
        }
    }
    return merged;
}
