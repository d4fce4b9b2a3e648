// Merges the splits of a row: Mg = max M, m_w = exp(M_w - Mg),
// out = sum(acc_w m_w) / sum(S_w m_w), zeros when nothing was visible in any split.
//
// One workgroup a row. VECS threads cover the row, four coordinates each; SLICES such sets of
// threads share the splits.
// Contract: src/kernels/flash_attn_vec_reduce.rs. Oracle: src/oracle/flash_attn_vec_reduce.rs.

const VECS = HEAD_DIM / 4u;
const SLICES = WORKGROUP_SIZE / VECS;

@group(0) @binding(0) var<uniform> nrows: u32;
@group(0) @binding(1) var<storage, read> partials: array<f32>;   // accumulators, then (S, M) pairs
@group(0) @binding(2) var<storage, read_write> dst: array<f32>;  // [row][coord]
@group(0) @binding(3) var<uniform> nwg: u32;

var<workgroup> weights: array<f32, MAX_SPLITS>;
var<workgroup> slices: array<vec4<f32>, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let row = min(workgroup.y * workgroups.x + workgroup.x, nrows - 1u);
    let pairs = nrows * HEAD_DIM * nwg + row * 2u * nwg;

    // Phase 1: the common maximum, over splits that saw something.
    var top = -3.40282346e38;
    for (var w = 0u; w < nwg; w++) {
        top = max(top, select(-3.40282346e38, partials[pairs + 2u * w + 1u], partials[pairs + 2u * w] != 0.0));
    }

    // Phase 2: the weight of each split.
    for (var w = tid; w < nwg; w += WORKGROUP_SIZE) {
        let seen = partials[pairs + 2u * w] != 0.0;
        weights[w] = select(0.0, exp(partials[pairs + 2u * w + 1u] - top), seen);
    }
    workgroupBarrier();

    // Phase 3: weighted accumulators and sum, the splits dealt to the slices.
    let f = tid % VECS;
    var acc = vec4(0.0);
    for (var w = tid / VECS; w < nwg; w += SLICES) {
        let at = ((row * VECS + f) * nwg + w) * 4u;
        acc += weights[w] * vec4(partials[at], partials[at + 1u], partials[at + 2u], partials[at + 3u]);
    }
    slices[tid] = acc;
    workgroupBarrier();

    // Phase 4: add the slices, divide, store.
    if (tid < VECS) {
        var total = vec4(0.0);
        for (var s = 0u; s < SLICES; s++) {
            total += slices[s * VECS + f];
        }
        var sum = 0.0;
        for (var w = 0u; w < nwg; w++) {
            sum += partials[pairs + 2u * w] * weights[w];
        }
        let out = select(total / sum, vec4(0.0), sum == 0.0);
        for (var c = 0u; c < 4u; c++) {
            dst[row * HEAD_DIM + f * 4u + c] = out[c];
        }
    }
}
