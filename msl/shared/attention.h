// Row groups: how the kernels of one query token share the work, and how the parts are merged.
//
// A row group is LANES threads that score one position together; each lane owns COORDS
// contiguous coordinates of q, K, V and the accumulator. A threadgroup has ROW_GROUPS row
// groups, each with its own running maximum, sum and accumulator for GROUP query heads of one KV
// head. LANES divides the simdgroup width of 32, so a row group never leaves its simdgroup.

constant constexpr uint COORDS = HEAD_DIM / LANES;
constant constexpr uint VECS = COORDS / 4u;
constant constexpr uint ROW_GROUPS = WORKGROUP_SIZE / LANES;

// What sums start from: 0, or NaN in a lane that could not add up its row group, so that the
// output is seen to be wrong and never only looks right.
inline float sum_start(bool fits) {
    return as_type<float>(fits ? 0u : 0x7fc00000u);
}

// Whether the shuffles reach the lanes they mean.
inline bool row_sum_fits(uint tid) {
    bool fits = true;
    for (ushort mask = 1; mask < LANES; mask <<= 1) {
        uint partner = simd_shuffle_xor(tid, mask);
        fits = fits && partner == (tid ^ mask);
    }
    return fits;
}

// Sum over the LANES lanes of a row group by shuffles.
inline float row_sum(float x) {
    for (ushort mask = 1; mask < LANES; mask <<= 1) {
        x += simd_shuffle_xor(x, mask);
    }
    return x;
}

// One coordinate of a query head over all row groups, each brought to the common maximum.
struct Merged {
    float acc;
    float sum;
    float top;
};

// What row groups hand to the merge, MERGE_HEADS query heads at a time; sums of all heads,
// `sum_rows` each.
struct Merge {
    threadgroup float4 *acc;
    threadgroup float *top;
    threadgroup float *sum;
    uint sum_rows;
};

// Coordinate c of query head `batch + h`, after the merge arrays are complete.
inline Merged merged_at(Merge merge, uint batch, uint h, uint c) {
    Merged merged = {0.0f, 0.0f, NO_SCORE};
    for (uint g = 0; g < ROW_GROUPS; g++) {
        merged.top = max(merged.top, merge.top[g * MERGE_HEADS + h]);
    }
    for (uint g = 0; g < ROW_GROUPS; g++) {
        uint at = g * MERGE_HEADS + h;
        float factor = precise::exp(merge.top[at] - merged.top);
        merged.acc += factor * merge.acc[(at * HEAD_DIM + c) / 4u][c % 4u];
        for (uint r = 0; r < merge.sum_rows; r++) {
            merged.sum += factor * merge.sum[(g * merge.sum_rows + r) * GROUP_PAD + batch + h];
        }
    }
    return merged;
}

// Stores one coordinate of the output, or of the partials with their pair.
inline void store(
    device float *dst, uint head, uint c, uint split, uint n_heads, uint nwg, Merged merged) {
    if (nwg == 1u) {
        dst[head * HEAD_DIM + c] = merged.sum == 0.0f ? 0.0f : merged.acc / merged.sum;
        return;
    }
    dst[partial_at(head, c, split, nwg)] = merged.acc;
    if (c == 0u) {
        uint at = partial_pair_at(n_heads, head, split, nwg);
        dst[at] = merged.sum;
        dst[at + 1u] = merged.top;
    }
}
