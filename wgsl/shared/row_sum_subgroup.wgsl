// Sum over the LANES lanes of a row group by shuffles. Needs LANES <= subgroup size, and lanes
// that follow each other in the workgroup to follow each other in the subgroup.

const ROW_SUM_BARRIER = false; // row_sum_get may follow row_sum_put at once

// Whether the shuffles reach the lanes they mean. They do not where subgroups are narrower than
// planned, or where threads fill them in another order.
fn row_sum_fits(tid: u32) -> bool {
    var fits = true;
    for (var step = 1u; step < LANES; step <<= 1u) { // unroll
        let partner = subgroupShuffleXor(tid, step);
        fits = fits && partner == (tid ^ step);
    }
    return fits;
}

fn row_sum_put(tid: u32, i: u32, x: f32) {
}

fn row_sum_get(tid: u32, i: u32, x: f32) -> f32 {
    var sum = x;
    for (var step = 1u; step < LANES; step <<= 1u) { // unroll
        sum += subgroupShuffleXor(sum, step);
    }
    return sum;
}
