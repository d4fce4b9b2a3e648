// Row groups: how the kernels of one query token share the work, and how the parts are merged.
//
// A row group is LANES threads that score one position together; each lane owns COORDS
// contiguous coordinates of q, K, V and the accumulator. A threadgroup has ROW_GROUPS row
// groups, each with its own running maximum, sum and accumulator for GROUP query heads of one KV
// head. LANES divides the simdgroup width of 32, so a row group never leaves its simdgroup.

constant constexpr uint COORDS = HEAD_DIM / LANES;
constant constexpr uint VECS = COORDS / 4u;
constant constexpr uint ROW_GROUPS = WORKGROUP_SIZE / LANES;
constant constexpr uint MERGE_GROUPS = ROW_GROUPS / JOINED; // row groups, of which JOINED have become one

// What sums start from: 0, or NaN in a lane that could not add up its row group, so that the
// output is seen to be wrong and never only looks right.
inline float sum_start(bool fits) {
    return as_type<float>(fits ? 0u : 0x7fc00000u);
}

// Whether the shuffles reach the lanes they mean.
inline bool row_sum_fits(uint tid) {
    bool fits = true;
    for (ushort mask = 1; mask < LANES * JOINED; mask <<= 1) {
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

// Threadgroup memory of the merge. Row groups hand over maxima and sums of all query heads,
// `sum_rows` sums each, and accumulators of MERGE_HEADS at a time; the merge makes of it factors
// that bring row groups to the common maximum, and their sums with it.
struct Merge {
    threadgroup float *top;
    threadgroup float *sum;
    threadgroup float4 *acc;
    threadgroup float *factor;
    threadgroup float *part;
    uint sum_rows;
};

// Maximum of query head h over the row groups.
inline float merged_max(Merge merge, uint h) {
    float top = NO_SCORE;
    for (uint g = 0; g < MERGE_GROUPS; g++) {
        top = max(top, merge.top[g * GROUP_PAD + h]);
    }
    return top;
}

// Factors and sums, after maxima and sums are complete.
inline void merge_weigh(Merge merge, uint tid) {
    for (uint x = tid; x < MERGE_GROUPS * GROUP; x += WORKGROUP_SIZE) {
        uint g = x / GROUP;
        uint h = x % GROUP;
        float sum = 0.0f;
        for (uint r = 0; r < merge.sum_rows; r++) {
            sum += merge.sum[(g * merge.sum_rows + r) * GROUP_PAD + h];
        }
        float factor = precise::exp(merge.top[g * GROUP_PAD + h] - merged_max(merge, h));
        merge.factor[g * GROUP_PAD + h] = factor;
        merge.part[g * GROUP_PAD + h] = factor * sum;
    }
}

// Sum of query head h over the row groups, after merge_weigh.
inline float merged_sum(Merge merge, uint h) {
    float sum = 0.0f;
    for (uint g = 0; g < MERGE_GROUPS; g++) {
        sum += merge.part[g * GROUP_PAD + h];
    }
    return sum;
}

// Vector f of the accumulator of query head h, the `nth` of its batch, over the row groups.
inline float4 merged_acc(Merge merge, uint h, uint nth, uint f) {
    float4 acc = float4(0.0f);
    for (uint g = 0; g < MERGE_GROUPS; g++) {
        float factor = merge.factor[g * GROUP_PAD + h];
        acc += factor * merge.acc[(g * MERGE_HEADS + nth) * (HEAD_DIM / 4u) + f];
    }
    return acc;
}

// Where an output goes: its split, and the launch's number of query heads and splits.
struct Place {
    uint split;
    uint n_heads;
    uint nwg;
};

// Stores vector f of the output of query head `first_head + h`, the `nth` of its batch, or of its
// partials with their pair.
inline void store(
    device float *dst, Merge merge, Place place, uint first_head, uint h, uint nth, uint f) {
    float4 acc = merged_acc(merge, h, nth, f);
    uint head = first_head + h;
    if (place.nwg == 1u) {
        float sum = merged_sum(merge, h);
        *(device float4 *)(dst + head * HEAD_DIM + 4u * f) = sum == 0.0f ? float4(0.0f) : acc / sum;
        return;
    }
    *(device float4 *)(dst + partial_at(head, 4u * f, place.split, place.nwg)) = acc;
    if (f == 0u) {
        uint at = partial_pair_at(place.n_heads, head, place.split, place.nwg);
        *(device float2 *)(dst + at) = float2(merged_sum(merge, h), merged_max(merge, h));
    }
}
