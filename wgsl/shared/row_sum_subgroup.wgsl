// Sum over the LANES lanes of a row group by shuffles. Needs LANES <= subgroup size, and lanes
// that follow each other in the workgroup to follow each other in the subgroup.

const ROW_SUM_BARRIER = false; // row_sum_get may follow row_sum_put at once

fn row_sum_put(tid: u32, i: u32, x: f32) {
}

fn row_sum_get(tid: u32, i: u32, x: f32) -> f32 {
    var sum = x;
    for (var step = 1u; step < LANES; step <<= 1u) {
        sum += subgroupShuffleXor(sum, step);
    }
    return sum;
}
