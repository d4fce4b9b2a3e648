// Fast Walsh-Hadamard transform in place: y = FWHT(x) / sqrt(D), with the rotation's signs
// before it (into the rotated basis), after it (back), or not at all.
//
// A threadgroup handles ROWS_PER_WORKGROUP rows, one simdgroup a row.
// Contract: src/kernels/fwht.rs. Oracle: src/oracle/fwht.rs.

struct Params {
    uint head_dim;
    uint num_heads;
};
static_assert(sizeof(Params) == 8, "Params is the contract's block");

kernel void fwht(
    device float *data [[buffer(0)]], // [row][coord]
    constant Params &params [[buffer(1)]],
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint3 workgroups [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
    uint row = (workgroup.y * workgroups.x + workgroup.x) * ROWS_PER_WORKGROUP + simdgroup;
    if (row >= params.num_heads) {
        return; // whole simdgroups leave, and nothing below waits for another simdgroup
    }
    uint at = row * HEAD_DIM;

    // Phase 1: load, sign.
    float x[EPT];
    for (uint i = 0; i < EPT; i++) {
        x[i] = data[at + lane * EPT + i];
    }
    if (SIGN_BEFORE) {
        apply_signs(x, lane * EPT);
    }

    // Phase 2: butterflies, narrowest stride first.
    butterflies(x, lane);

    // Phase 3: normalise, sign, store.
    float factor = normaliser(lane);
    for (uint i = 0; i < EPT; i++) {
        x[i] *= factor;
    }
    if (SIGN_AFTER) {
        apply_signs(x, lane * EPT);
    }
    for (uint i = 0; i < EPT; i++) {
        data[at + lane * EPT + i] = x[i];
    }
}
