// Fast Walsh-Hadamard transform in place: y = FWHT(x) / sqrt(D), with the rotation's signs
// before it (into the rotated basis), after it (back), or not at all.
//
// A workgroup handles ROWS_PER_WORKGROUP rows, HEAD_DIM / 8 threads a row.
// Contract: src/kernels/fwht.rs. Oracle: src/oracle/fwht.rs.

struct Params {
    head_dim: u32,
    num_heads: u32,
}

@group(0) @binding(0) var<storage, read_write> data: array<vec4<f32>>; // f32 [row][coord]
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let t = tid % ROW_THREADS;
    let local_row = tid / ROW_THREADS;
    let row = (workgroup.y * workgroups.x + workgroup.x) * ROWS_PER_WORKGROUP + local_row;
    let in_range = row < params.num_heads;
    let at = min(row, params.num_heads - 1u) * (HEAD_DIM / 4u);

    // Phase 1: load, sign.
    var x: Octet;
    for (var m = 0u; m < 4u; m++) { // unroll
        x.lo[m] = data[at + (t + m * ROW_THREADS) / 4u][t % 4u];
        x.hi[m] = data[at + (t + (m + 4u) * ROW_THREADS) / 4u][t % 4u];
    }
    if (SIGN_BEFORE) {
        x = apply_signs_wide(x, t);
    }

    // Phase 2: butterflies, widest stride first.
    x = pass_wide(x);
    exchange_put(local_row, wide(t), x);
    storageBarrier(); // in place: the whole row is read before any of it is written
    workgroupBarrier();
    x = pass_full(exchange_get(local_row, middle(t)));
    exchange_put(local_row, middle(t), x);
    workgroupBarrier();
    x = pass_full(exchange_get(local_row, narrow(t)));

    // Phase 3: normalise, sign, store.
    x = Octet(x.lo * INV_SQRT_HEAD_DIM, x.hi * INV_SQRT_HEAD_DIM);
    if (SIGN_AFTER) {
        x = apply_signs_narrow(x, t);
    }
    if (in_range) {
        data[at + narrow(t).first / 4u] = x.lo;
        data[at + narrow(t).first / 4u + 8u] = x.hi;
    }
}
