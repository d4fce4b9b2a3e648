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

// Largest running maximum of the row groups, after merge_max is complete.
inline float merged_max(threadgroup const float *merge_max) {
    float top = NO_SCORE;
    for (uint i = 0; i < ROW_GROUPS; i++) {
        top = max(top, merge_max[i]);
    }
    return top;
}

// Sum of the row groups' sums, each brought to the common maximum.
inline float merged_sum(
    threadgroup const float *merge_max, threadgroup const float *merge_sum, float top) {
    float sum = 0.0f;
    for (uint i = 0; i < ROW_GROUPS; i++) {
        sum += merge_sum[i] * precise::exp(merge_max[i] - top);
    }
    return sum;
}

// Sum of one coordinate over the row groups.
inline float merged_acc(threadgroup const float *merge_acc, uint c) {
    float sum = 0.0f;
    for (uint i = 0; i < ROW_GROUPS; i++) {
        sum += merge_acc[i * HEAD_DIM + c];
    }
    return sum;
}
