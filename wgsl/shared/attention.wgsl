// What the attention kernels share: positions, softcap, and the merge of row groups.
//
// A row group is LANES threads that score one position together; each lane owns COORDS
// contiguous coordinates of q, K, V and the accumulator. A workgroup has ROW_GROUPS row groups,
// each with its own running maximum, sum and accumulator for GROUP query heads of one KV head.

const COORDS = HEAD_DIM / LANES;
const VECS = COORDS / 4u;
const ROW_GROUPS = WORKGROUP_SIZE / LANES;
const NO_SCORE = -1.7014118e38; // running maximum before anything was seen: -FLT_MAX / 2

// What row groups hand to the merge, MERGE_HEADS query heads at a time; sums of all heads.
var<workgroup> merge_acc: array<vec4<f32>, ROW_GROUPS * MERGE_HEADS * HEAD_DIM / 4u>;
var<workgroup> merge_max: array<f32, ROW_GROUPS * MERGE_HEADS>;
var<workgroup> merge_sum: array<f32, ROW_GROUPS * SUM_ROWS * GROUP_PAD>;

// What sums start from: 0, or NaN in a lane that could not add up its row group, so that the
// output is seen to be wrong and never only looks right.
fn sum_start(fits: bool) -> f32 {
    return bitcast<f32>(select(0x7fc00000u, 0u, fits));
}

// First visible chronological position.
fn first_visible(n: u32, mask_type: u32, sliding_window: u32) -> u32 {
    if (mask_type == 2u && sliding_window > 0u && sliding_window < n) {
        return n - sliding_window;
    }
    return 0u;
}

// Slot of chronological position i.
fn ring_slot(i: u32, ring_start: u32, capacity: u32) -> u32 {
    let s = ring_start + i;
    return select(s, s - capacity, s >= capacity);
}

// c * tanh(s / c), or s when c is 0. Near 0 by its series, elsewhere with exp of a negative
// argument: that never overflows, as the built-in tanh does on some drivers.
fn soften(s: f32, c: f32) -> f32 {
    if (c <= 0.0) {
        return s;
    }
    let x = s / c;
    let x2 = x * x;
    if (x2 < 0.0625) {
        return s * (1.0 - x2 * (1.0 / 3.0 - x2 * (2.0 / 15.0 - x2 * (17.0 / 315.0 - x2 * (62.0 / 2835.0)))));
    }
    let t = exp(-2.0 * abs(x));
    return sign(s) * c * ((1.0 - t) / (1.0 + t));
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

// Float index of coordinate c of row r, split w, in the partials layout.
fn partial_at(r: u32, c: u32, w: u32, nwg: u32) -> u32 {
    return ((r * (HEAD_DIM / 4u) + c / 4u) * nwg + w) * 4u + c % 4u;
}

// Float index of the pair (S, M) of row r, split w.
fn partial_pair_at(nrows: u32, r: u32, w: u32, nwg: u32) -> u32 {
    return nrows * HEAD_DIM * nwg + r * 2u * nwg + 2u * w;
}
