// Merges the splits of a row: Mg = max M, m_w = exp(M_w - Mg),
// out = sum(acc_w m_w) / sum(S_w m_w), zeros when nothing was visible in any split.
//
// One threadgroup a row. VECS threads cover the row, four coordinates each; SLICES such sets of
// threads share the splits.
// Contract: src/kernels/flash_attn_vec_reduce.rs. Oracle: src/oracle/flash_attn_vec_reduce.rs.

constant constexpr uint VECS = HEAD_DIM / 4u;
constant constexpr uint SLICES = WORKGROUP_SIZE / VECS;

kernel void flash_attn_vec_reduce(
    constant uint &nrows [[buffer(0)]],
    device const float *partials [[buffer(1)]], // accumulators, then (S, M) pairs
    device float *dst [[buffer(2)]],            // [row][coord]
    constant uint &nwg [[buffer(3)]],
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint3 workgroups [[threadgroups_per_grid]],
    uint tid [[thread_index_in_threadgroup]]) {
    threadgroup float weights[MAX_SPLITS];
    threadgroup float4 slices[WORKGROUP_SIZE];

    uint row = workgroup.y * workgroups.x + workgroup.x;
    if (row >= nrows) {
        return; // the whole threadgroup leaves
    }
    uint pairs = nrows * HEAD_DIM * nwg + row * 2u * nwg;

    // Phase 1: the common maximum, over splits that saw something.
    float top = -3.40282346e38f;
    for (uint w = 0; w < nwg; w++) {
        top = max(top, partials[pairs + 2u * w] != 0.0f ? partials[pairs + 2u * w + 1u] : -3.40282346e38f);
    }

    // Phase 2: the weight of each split.
    for (uint w = tid; w < nwg; w += WORKGROUP_SIZE) {
        bool seen = partials[pairs + 2u * w] != 0.0f;
        weights[w] = seen ? precise::exp(partials[pairs + 2u * w + 1u] - top) : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    // Phase 3: weighted accumulators and sum, the splits dealt to the slices.
    uint f = tid % VECS;
    float4 acc = float4(0.0f);
    for (uint w = tid / VECS; w < nwg; w += SLICES) {
        uint at = ((row * VECS + f) * nwg + w) * 4u;
        acc += weights[w] * float4(partials[at], partials[at + 1u], partials[at + 2u], partials[at + 3u]);
    }
    slices[tid] = acc;
    threadgroup_barrier(mem_flags::mem_threadgroup);

    // Phase 4: add the slices, divide, store.
    if (tid < VECS) {
        float4 total = float4(0.0f);
        for (uint s = 0; s < SLICES; s++) {
            total += slices[s * VECS + f];
        }
        float sum = 0.0f;
        for (uint w = 0; w < nwg; w++) {
            sum += partials[pairs + 2u * w] * weights[w];
        }
        float4 out = sum == 0.0f ? float4(0.0f) : total / sum;
        for (uint c = 0; c < 4u; c++) {
            dst[row * HEAD_DIM + f * 4u + c] = out[c];
        }
    }
}
