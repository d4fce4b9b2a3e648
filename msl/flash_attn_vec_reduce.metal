// Merges the splits of a row: Mg = max M, m_w = exp(M_w - Mg),
// out = sum(acc_w m_w) / sum(S_w m_w), zeros when nothing was visible in any split.
//
// PARTS threadgroups a row, so that a few rows still fill a device. Each merges PART_VECS vectors
// of four coordinates; SLICES neighbouring threads share the splits of a vector.
// Contract: src/kernels/flash_attn_vec_reduce.rs. Oracle: src/oracle/flash_attn_vec_reduce.rs.

constant constexpr uint VECS = HEAD_DIM / 4u;
constant constexpr uint PART_VECS = VECS / PARTS;
constant constexpr uint SLICES = WORKGROUP_SIZE / PART_VECS;
constant constexpr float NOTHING = -3.40282346e38f; // maximum where nothing was seen

kernel void flash_attn_vec_reduce(
    constant uint &nrows [[buffer(0)]],
    device const float2 *partials [[buffer(1)]], // accumulators, then (S, M) pairs
    device float4 *dst [[buffer(2)]],            // [row][coord / 4]
    constant uint &nwg [[buffer(3)]],
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint3 workgroups [[threadgroups_per_grid]],
    uint tid [[thread_index_in_threadgroup]]) {
    threadgroup float maxima[WORKGROUP_SIZE];
    threadgroup float sums[WORKGROUP_SIZE];
    threadgroup float4 slices[WORKGROUP_SIZE];

    uint part = workgroup.y * workgroups.x + workgroup.x;
    if (part >= nrows * PARTS) {
        return; // the whole threadgroup leaves
    }
    uint row = part / PARTS;
    uint f = part % PARTS * PART_VECS + tid / SLICES;
    uint pairs = (nrows * HEAD_DIM / 2u + row) * nwg;
    uint accs = (row * VECS + f) * nwg * 2u;

    // Phase 1: this slice's maximum, over splits that saw something.
    float top = NOTHING;
    for (uint w = tid % SLICES; w < nwg; w += SLICES) {
        float2 pair = partials[pairs + w];
        top = max(top, pair.x != 0.0f ? pair.y : NOTHING);
    }

    // Phase 2: this slice's weighted accumulators and sum.
    float4 acc = float4(0.0f);
    float sum = 0.0f;
    for (uint w = tid % SLICES; w < nwg; w += SLICES) {
        float2 pair = partials[pairs + w];
        float weight = pair.x != 0.0f ? precise::exp(pair.y - top) : 0.0f;
        acc += weight * float4(partials[accs + 2u * w], partials[accs + 2u * w + 1u]);
        sum += weight * pair.x;
    }
    maxima[tid] = top;
    sums[tid] = sum;
    slices[tid] = acc;
    threadgroup_barrier(mem_flags::mem_threadgroup);

    // Phase 3: the first thread of a vector merges its slices, divides, stores.
    if (tid % SLICES == 0u) {
        for (uint s = 0; s < SLICES; s++) {
            top = max(top, maxima[tid + s]);
        }
        float4 total = float4(0.0f);
        sum = 0.0f;
        for (uint s = 0; s < SLICES; s++) {
            float weight = precise::exp(maxima[tid + s] - top);
            total += weight * slices[tid + s];
            sum += weight * sums[tid + s];
        }
        dst[row * VECS + f] = sum == 0.0f ? float4(0.0f) : total / sum;
    }
}
