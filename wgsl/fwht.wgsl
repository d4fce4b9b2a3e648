// Fast Walsh-Hadamard transform in place: y = FWHT(x) / sqrt(D), with the rotation's signs
// before it (into the rotated basis), after it (back), or not at all.
//
// A workgroup handles ROWS_PER_WORKGROUP rows, ROW_THREADS threads a row.
// Contract: src/kernels/fwht.rs. Oracle: src/oracle/fwht.rs.

struct Params {
    head_dim: u32,
    num_heads: u32,
}

@group(0) @binding(0) var<storage, read_write> data: array<f32>; // [row][coord]
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
    let at = min(row, params.num_heads - 1u) * HEAD_DIM;

    // Phase 1: load, sign.
    var x: array<f32, EPT>;
    for (var m = 0u; m < EPT; m++) { // unroll
        x[m] = data[at + t + m * ROW_THREADS];
    }
    if (SIGN_BEFORE) {
        x = apply_signs(t, x);
    }

    // Phase 2: butterflies, widest strides first.
    put_wide(local_row, t, pass_wide(x));
    storageBarrier(); // in place: threads without a row read the last one before it is written
    workgroupBarrier();
    put_near(local_row, t, pass_near(get_near(local_row, t)));
    workgroupBarrier();

    // Phase 3: normalise, sign, store.
    x = scaled(get_wide(local_row, t), INV_SQRT_HEAD_DIM);
    if (SIGN_AFTER) {
        x = apply_signs(t, x);
    }
    if (in_range) {
        for (var m = 0u; m < EPT; m++) { // unroll
            data[at + t + m * ROW_THREADS] = x[m];
        }
    }
}
