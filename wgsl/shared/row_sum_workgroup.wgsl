// Sum over the LANES lanes of a row group through workgroup memory, for devices without
// subgroup operations. The entry point puts the barriers; a constant tells it to.

const ROW_SUM_BARRIER = true; // a barrier between row_sum_put and row_sum_get, and after

var<workgroup> row_sums: array<f32, ROWS * GROUP * WORKGROUP_SIZE>;

fn row_sum_fits(tid: u32) -> bool {
    return true;
}

fn row_sum_put(tid: u32, i: u32, x: f32) {
    row_sums[i * WORKGROUP_SIZE + tid] = x;
}

fn row_sum_get(tid: u32, i: u32, x: f32) -> f32 {
    let first = i * WORKGROUP_SIZE + tid - tid % LANES;
    var sum = 0.0;
    for (var l = 0u; l < LANES; l++) {
        sum += row_sums[first + l];
    }
    return sum;
}
