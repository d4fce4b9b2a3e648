// Merges the splits of a row: Mg = max M, m_w = exp(M_w - Mg),
// out = sum(acc_w m_w) / sum(S_w m_w), zeros when nothing was visible in any split.
//
// PARTS workgroups a row, so that a few rows still fill a device. Each merges PART_VECS vectors of
// four coordinates; SLICES neighbouring threads share the splits of a vector.
// Contract: src/kernels/flash_attn_vec_reduce.rs. Oracle: src/oracle/flash_attn_vec_reduce.rs.

const VECS = HEAD_DIM / 4u;
const PART_VECS = VECS / PARTS;
const SLICES = WORKGROUP_SIZE / PART_VECS;
const NOTHING = -3.40282346e38; // maximum where nothing was seen

@group(0) @binding(0) var<uniform> nrows: u32;
@group(0) @binding(1) var<storage, read> partials: array<vec2<f32>>; // accumulators, then (S, M) pairs
@group(0) @binding(2) var<storage, read_write> dst: array<vec4<f32>>; // [row][coord / 4]
@group(0) @binding(3) var<uniform> nwg: u32;

var<workgroup> maxima: array<f32, WORKGROUP_SIZE>;
var<workgroup> sums: array<f32, WORKGROUP_SIZE>;
var<workgroup> slices: array<vec4<f32>, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let part = min(workgroup.y * workgroups.x + workgroup.x, nrows * PARTS - 1u);
    let row = part / PARTS;
    let f = part % PARTS * PART_VECS + tid / SLICES;
    let pairs = (nrows * HEAD_DIM / 2u + row) * nwg;
    let accs = (row * VECS + f) * nwg * 2u;

    // Phase 1: this slice's maximum, over splits that saw something.
    var top = NOTHING;
    for (var w = tid % SLICES; w < nwg; w += SLICES) {
        let pair = partials[pairs + w];
        top = max(top, select(NOTHING, pair.y, pair.x != 0.0));
    }

    // Phase 2: this slice's weighted accumulators and sum.
    var acc = vec4(0.0);
    var sum = 0.0;
    for (var w = tid % SLICES; w < nwg; w += SLICES) {
        let pair = partials[pairs + w];
        let weight = select(0.0, exp(pair.y - top), pair.x != 0.0);
        acc += weight * vec4(partials[accs + 2u * w], partials[accs + 2u * w + 1u]);
        sum += weight * pair.x;
    }
    maxima[tid] = top;
    sums[tid] = sum;
    slices[tid] = acc;
    workgroupBarrier();

    // Phase 3: the first thread of a vector merges its slices, divides, stores.
    if (tid % SLICES == 0u) {
        for (var s = 0u; s < SLICES; s++) {
            top = max(top, maxima[tid + s]);
        }
        var total = vec4(0.0);
        sum = 0.0;
        for (var s = 0u; s < SLICES; s++) {
            let weight = exp(maxima[tid + s] - top);
            total += weight * slices[tid + s];
            sum += weight * sums[tid + s];
        }
        dst[row * VECS + f] = select(total / sum, vec4(0.0), sum == 0.0);
    }
}
