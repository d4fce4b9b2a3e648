// Decode attention of one query token over packed K and V, in the rotated basis, with the products
// on simdgroup matrices: K, V, q and the weights in f16, sums in f32.
//
// Threadgroup (x, y): x = KV head and part of its query heads, y = split of the visible positions. A
// simdgroup owns SUBGROUP_COORDS coordinates of BLOCK positions at a time; the simdgroups of a
// position group share the positions, and the group keeps a running softmax of its own. q and the
// weights are exact to 22 bits: one matrix holds the upper half of each, another what is left of it.
// K and V are rounded to f16 as they are decoded into a simdgroup's strip of threadgroup memory,
// STRIP_COORDS coordinates a turn.
// Contract: src/kernels/flash_attn_mat_tq.rs. Oracle: src/oracle/flash_attn_mat_tq.rs.

constant constexpr uint SIDE = 8u;                                // rows and columns of a matrix
constant constexpr uint BLOCK = 16u;                              // positions of a simdgroup at a time
constant constexpr uint HEADS = 8u;                               // query heads of a matrix
constant constexpr uint SUBGROUP = 32u;
constant constexpr uint SUBGROUPS = WORKGROUP_SIZE / SUBGROUP;
constant constexpr uint COORDS = 32u;                             // coordinates of a lane in a row
constant constexpr uint SUBGROUP_COORDS = HEAD_DIM < 128u ? HEAD_DIM : 128u;
constant constexpr uint ROW_SUBGROUPS = HEAD_DIM / SUBGROUP_COORDS; // simdgroups that share a position
constant constexpr uint POSITION_GROUPS = SUBGROUPS / ROW_SUBGROUPS;
constant constexpr uint TILE = POSITION_GROUPS * BLOCK;           // positions that a threadgroup handles at a time
constant constexpr uint ROW_LANES = SUBGROUP_COORDS / COORDS;     // lanes of a simdgroup that read a row
constant constexpr uint LOAD_ROWS = SUBGROUP / ROW_LANES;         // rows that a simdgroup reads at a time
constant constexpr uint LOADS = BLOCK / LOAD_ROWS;
constant constexpr uint STRIP_COORDS = 64u;                       // columns of a strip
constant constexpr uint TURNS = SUBGROUP_COORDS / STRIP_COORDS;   // in which a simdgroup's coordinates pass through it
constant constexpr uint TURN_VECS = COORDS / TURNS / 4u;          // vectors of a lane and row in a strip
constant constexpr uint TURN_MATRICES = STRIP_COORDS / SIDE;
constant constexpr uint MATRICES = TURNS * TURN_MATRICES;

constant constexpr uint K_WORDS = COORDS * K_BITS / 32u; // words that hold a lane's codes of one row
constant constexpr uint V_WORDS = COORDS * V_BITS / 32u;
constant constexpr uint K_ROW_WORDS = HEAD_DIM * K_BITS / 32u;
constant constexpr uint V_ROW_WORDS = HEAD_DIM * V_BITS / 32u;

// Rows of what passes through threadgroup memory, in elements.
constant constexpr uint STRIP_PITCH = STRIP_COORDS + 8u;
constant constexpr uint SUM_PITCH = BLOCK + 4u;
constant constexpr uint WEIGHT_PITCH = BLOCK + 8u;
constant constexpr uint STRIP = BLOCK * STRIP_PITCH;
constant constexpr uint SUMS = HEADS * SUM_PITCH;
constant constexpr uint WEIGHTS = 2u * HEADS * WEIGHT_PITCH;

constant constexpr float HIDDEN = -3.0e38f;      // score of a row past the end: far under any running maximum
constant constexpr float LEAST_SCALE = 1.0e-20f; // of a V row, as far as the running maximum is concerned

// How far a score may rise above the running maximum before accumulators are rescaled: exp of it
// is far from what f16 can hold, and rescaling is rare.
constant constexpr float SLACK = 8.0f;

typedef simdgroup_matrix<half, 8, 8> Factor;
typedef simdgroup_matrix<float, 8, 8> Sum;

struct Params {
    uint n_heads;
    uint n_kv_heads;
    uint head_dim;
    uint kv_seq_len;
    uint kv_capacity;
    float scale;
    uint mask_type;
    uint sliding_window;
    float softcap;
    uint nwg;
    uint ring_start;
    float scale_factor_d512;
};
static_assert(sizeof(Params) == 48, "Params is the contract's block");

// Row of K and V of a position; rows past the end repeat the last one.
inline uint row_at(constant Params &params, uint position, uint end, uint kv_head) {
    uint slot = ring_slot(min(position, end - 1u), params.ring_start, params.kv_capacity);
    return kv_head * params.kv_capacity + slot;
}

// What a thread reads of the norms of a tile: of the positions that it weighs.
struct Norms {
    float k[POSITION_GROUPS][NORMS_PER_POS];
    float v[POSITION_GROUPS][NORMS_PER_POS];
};

// Reads the norms of the tile whose first position that this thread weighs is `position`.
inline Norms norms_at(
    constant Params &params, device const float *k_norms, device const float *v_norms, uint position, uint end, uint kv_head) {
    Norms norms;
    for (uint g = 0; g < POSITION_GROUPS; g++) {
        uint row = row_at(params, position + g * BLOCK, end, kv_head);
        for (uint n = 0; n < NORMS_PER_POS; n++) {
            norms.k[g][n] = k_norms[row * NORMS_PER_POS + n];
            norms.v[g][n] = v_norms[row * NORMS_PER_POS + n];
        }
    }
    return norms;
}

// A lane's codes of one row, first code in the lowest bits.
template <uint WORDS, uint ROW_WORDS>
inline void words_at(device const uint *packed, uint row, uint lane, thread uint (&words)[WORDS]) {
    for (uint i = 0; i < WORDS; i++) {
        words[i] = packed[row * ROW_WORDS + lane * WORDS + i];
    }
}

// Decodes four of a lane's codes, vector i of them.
template <uint WORDS, uint BITS>
inline half4 decoded(threadgroup const float *codebook, thread const uint (&words)[WORDS], uint i, uint base) {
    uint bit = 4u * i * BITS;
    uint2 two = uint2(words[bit / 32u], words[min(bit / 32u + 1u, WORDS - 1u)]);
    return half4(centroids(codebook, two, bit % 32u, BITS, base));
}

// Coordinate, of those of a simdgroup, of column x of its strip.
inline uint coordinate(uint turn, uint x) {
    uint vec = x / 4u;
    return vec % ROW_LANES * COORDS + (turn * TURN_VECS + vec / ROW_LANES) * 4u + x % 4u;
}

// Upper half of x, or what is left of it.
inline half4 part(float4 x, bool rest) {
    half4 upper = half4(x);
    return rest ? half4(x - float4(upper)) : upper;
}

// Puts four values in their columns of a strip.
inline void put_four(threadgroup half *at, half4 x) {
    for (uint e = 0; e < 4u; e++) {
        at[e] = x[e];
    }
}

kernel void flash_attn_mat_tq(
    constant Params &params [[buffer(0)]],
    device const float4 *q [[buffer(1)]],      // [head][coord / 4], rotated
    device const uint *k_packed [[buffer(2)]], // [kv_head][slot][word]
    device const float *k_norms [[buffer(3)]], // [kv_head][slot][block]
    device const uint *v_packed [[buffer(4)]], // [kv_head][slot][word]
    device const float *v_norms [[buffer(5)]], // [kv_head][slot][block]
    device float *dst [[buffer(6)]],           // [head][coord], or partials
    uint3 workgroup [[threadgroup_position_in_grid]],
    uint tid [[thread_index_in_threadgroup]]) {
    threadgroup float codebook[CODEBOOK_LEN];
    threadgroup half strips[SUBGROUPS * STRIP];  // [simdgroup][position][column]
    threadgroup float sums[SUBGROUPS * SUMS];    // [simdgroup][head][column]
    // [position group][block][upper, rest][head][position]
    threadgroup half weights[POSITION_GROUPS * NORMS_PER_POS * WEIGHTS];
    threadgroup float factors[POSITION_GROUPS * HEADS]; // [position group][head]
    threadgroup float head_sums[HEADS];
    threadgroup uint rises[SUBGROUPS];

    uint lane = tid % SUBGROUP;
    uint subgroup = tid / SUBGROUP;
    uint position_group = subgroup / ROW_SUBGROUPS;
    uint row_subgroup = subgroup % ROW_SUBGROUPS;
    uint kv_head = workgroup.x / GROUPS_PER_KV;
    uint first_head = kv_head * GQA + (workgroup.x % GROUPS_PER_KV) * GROUP;
    uint heads = min(GROUP, (kv_head + 1u) * GQA - first_head);
    uint split = workgroup.y;

    // A lane's part of a row, and its row among those that a simdgroup reads at a time.
    uint row_lane = row_subgroup * ROW_LANES + lane % ROW_LANES;
    uint load_row = lane / ROW_LANES;
    threadgroup half *strip = strips + subgroup * STRIP;
    threadgroup half *put = strip + load_row * STRIP_PITCH + lane % ROW_LANES * 4u;
    threadgroup float *own_sums = sums + subgroup * SUMS;

    // The positions of this split: an equal contiguous part of the visible ones.
    uint first = first_visible(params.kv_seq_len, params.mask_type, params.sliding_window);
    uint span = (params.kv_seq_len - first + params.nwg - 1u) / params.nwg;
    uint begin = min(first + split * span, params.kv_seq_len);
    uint end = min(begin + span, params.kv_seq_len);

    // A thread weighs one position of one query head in each position group.
    uint head = tid / BLOCK;
    uint position = tid % BLOCK;

    // Phase 1: first tile to registers, codebook to threadgroup memory, q through the strips to
    // matrices.
    uint k_codes[LOADS][K_WORDS];
    uint v_codes[LOADS][V_WORDS];
    Norms norms = {};
    if (begin < end) {
        for (uint l = 0; l < LOADS; l++) {
            uint row = row_at(params, begin + position_group * BLOCK + l * LOAD_ROWS + load_row, end, kv_head);
            words_at<K_WORDS, K_ROW_WORDS>(k_packed, row, row_lane, k_codes[l]);
            words_at<V_WORDS, V_ROW_WORDS>(v_packed, row, row_lane, v_codes[l]);
        }
        norms = norms_at(params, k_norms, v_norms, begin + position, end, kv_head);
    }
    codebook_fill(codebook, tid);
    Factor query[MATRICES];
    Factor query_rest[MATRICES];
    Sum acc[MATRICES];
    for (uint turn = 0; turn < TURNS; turn++) {
        // Two lanes a row.
        uint q_head = first_head + min(lane / 2u % HEADS, heads - 1u);
        for (uint i = 0; i < STRIP_COORDS / 8u; i++) {
            uint column = (lane % 2u * (STRIP_COORDS / 8u) + i) * 4u;
            uint at = q_head * HEAD_DIM + row_subgroup * SUBGROUP_COORDS + coordinate(turn, column);
            half4 x = part(q[at / 4u], lane / 2u >= HEADS);
            put_four(strip + lane / 2u * STRIP_PITCH + column, lane / 2u % HEADS < heads ? x : half4(0.0h));
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint j = 0; j < TURN_MATRICES; j++) {
            simdgroup_load(query[turn * TURN_MATRICES + j], strip + j * SIDE, STRIP_PITCH);
            simdgroup_load(query_rest[turn * TURN_MATRICES + j], strip + HEADS * STRIP_PITCH + j * SIDE, STRIP_PITCH);
            acc[turn * TURN_MATRICES + j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    float top[POSITION_GROUPS]; // running maximum, to within SLACK
    float sum[POSITION_GROUPS];
    for (uint g = 0; g < POSITION_GROUPS; g++) {
        top[g] = NO_SCORE;
        sum[g] = 0.0f;
    }

    for (uint base = begin; base < end; base += TILE) {
        // Phase 2: scores. A simdgroup decodes K and adds up its coordinates; its next codes are read
        // as soon as their registers are free.
        Sum score[BLOCK / SIDE];
        for (uint b = 0; b < BLOCK / SIDE; b++) {
            score[b] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
        for (uint turn = 0; turn < TURNS; turn++) {
            for (uint l = 0; l < LOADS; l++) {
                for (uint i = 0; i < TURN_VECS; i++) {
                    half4 x = decoded<K_WORDS, K_BITS>(codebook, k_codes[l], turn * TURN_VECS + i, 0u);
                    put_four(put + l * LOAD_ROWS * STRIP_PITCH + i * ROW_LANES * 4u, x);
                }
            }
            if (turn == TURNS - 1u) {
                for (uint l = 0; l < LOADS; l++) {
                    uint next = base + TILE + position_group * BLOCK + l * LOAD_ROWS + load_row;
                    words_at<K_WORDS, K_ROW_WORDS>(k_packed, row_at(params, next, end, kv_head), row_lane, k_codes[l]);
                }
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
            for (uint j = 0; j < TURN_MATRICES; j++) {
                for (uint b = 0; b < BLOCK / SIDE; b++) {
                    Factor k;
                    simdgroup_load(k, strip + b * SIDE * STRIP_PITCH + j * SIDE, STRIP_PITCH, ulong2(0, 0), true);
                    simdgroup_multiply_accumulate(score[b], query[turn * TURN_MATRICES + j], k, score[b]);
                    simdgroup_multiply_accumulate(score[b], query_rest[turn * TURN_MATRICES + j], k, score[b]);
                }
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
        }
        for (uint b = 0; b < BLOCK / SIDE; b++) {
            simdgroup_store(score[b], own_sums + b * SIDE, SUM_PITCH);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        // Phase 3: running softmax; scores become weights, which take V's norm along. So does the
        // running maximum: weights stay within f16 whatever the norms are.
        Norms read = norms;
        norms = norms_at(params, k_norms, v_norms, base + TILE + position, end, kv_head);
        bool rise = false;
        for (uint g = 0; g < POSITION_GROUPS; g++) {
            float s = 0.0f;
            for (uint r = 0; r < ROW_SUBGROUPS; r++) {
                float norm = read.k[g][r * NORMS_PER_POS / ROW_SUBGROUPS];
                float dot = sums[(g * ROW_SUBGROUPS + r) * SUMS + head * SUM_PITCH + position];
                s += dot * decode_scale(norm, params.scale_factor_d512);
            }
            s = base + g * BLOCK + position < end ? soften(s * params.scale, params.softcap) : HIDDEN;
            float v_scales[NORMS_PER_POS];
            float largest = LEAST_SCALE;
            for (uint n = 0; n < NORMS_PER_POS; n++) {
                v_scales[n] = decode_scale(read.v[g][n], params.scale_factor_d512);
                largest = max(largest, v_scales[n]);
            }
            float highest = s + precise::log(largest);
            for (ushort step = 1; step < BLOCK; step *= 2) {
                highest = max(highest, simd_shuffle_xor(highest, step));
            }
            float factor = 1.0f;
            if (highest > top[g] + SLACK) {
                factor = precise::exp(top[g] - highest);
                top[g] = highest;
                sum[g] *= factor;
                rise = true;
            }
            if (position == 0u) {
                factors[g * HEADS + head] = factor;
            }
            float weight = precise::exp(s - top[g]);
            sum[g] += weight;
            for (uint n = 0; n < NORMS_PER_POS; n++) {
                uint at = (g * NORMS_PER_POS + n) * WEIGHTS + head * WEIGHT_PITCH + position;
                float whole = weight * v_scales[n];
                half upper = half(whole);
                weights[at] = upper;
                weights[at + HEADS * WEIGHT_PITCH] = half(whole - float(upper));
            }
        }
        bool any_rise = simd_any(rise);
        if (lane == 0u) {
            rises[subgroup] = any_rise ? 1u : 0u;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        uint count = 0;
        for (uint s = 0; s < SUBGROUPS; s++) {
            count += rises[s];
        }
        if (count > 0u) {
            for (uint j = 0; j < MATRICES; j++) {
                simdgroup_store(acc[j], own_sums, SUM_PITCH);
                simdgroup_barrier(mem_flags::mem_threadgroup);
                for (uint x = lane; x < HEADS * SIDE; x += SUBGROUP) {
                    own_sums[x / SIDE * SUM_PITCH + x % SIDE] *= factors[position_group * HEADS + x / SIDE];
                }
                simdgroup_barrier(mem_flags::mem_threadgroup);
                simdgroup_load(acc[j], own_sums, SUM_PITCH);
                simdgroup_barrier(mem_flags::mem_threadgroup);
            }
        }

        // Phase 4: add the weighted V rows.
        uint block = position_group * NORMS_PER_POS + row_subgroup * NORMS_PER_POS / ROW_SUBGROUPS;
        Factor weighed[BLOCK / SIDE];
        Factor weighed_rest[BLOCK / SIDE];
        for (uint b = 0; b < BLOCK / SIDE; b++) {
            threadgroup const half *at = weights + block * WEIGHTS + b * SIDE;
            simdgroup_load(weighed[b], at, WEIGHT_PITCH);
            simdgroup_load(weighed_rest[b], at + HEADS * WEIGHT_PITCH, WEIGHT_PITCH);
        }
        for (uint turn = 0; turn < TURNS; turn++) {
            for (uint l = 0; l < LOADS; l++) {
                for (uint i = 0; i < TURN_VECS; i++) {
                    half4 x = decoded<V_WORDS, V_BITS>(codebook, v_codes[l], turn * TURN_VECS + i, V_BASE);
                    put_four(put + l * LOAD_ROWS * STRIP_PITCH + i * ROW_LANES * 4u, x);
                }
            }
            if (turn == TURNS - 1u) {
                for (uint l = 0; l < LOADS; l++) {
                    uint next = base + TILE + position_group * BLOCK + l * LOAD_ROWS + load_row;
                    words_at<V_WORDS, V_ROW_WORDS>(v_packed, row_at(params, next, end, kv_head), row_lane, v_codes[l]);
                }
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
            for (uint j = 0; j < TURN_MATRICES; j++) {
                for (uint b = 0; b < BLOCK / SIDE; b++) {
                    Factor v;
                    simdgroup_load(v, strip + b * SIDE * STRIP_PITCH + j * SIDE, STRIP_PITCH);
                    uint at = turn * TURN_MATRICES + j;
                    simdgroup_multiply_accumulate(acc[at], weighed[b], v, acc[at]);
                    simdgroup_multiply_accumulate(acc[at], weighed_rest[b], v, acc[at]);
                }
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
        }
    }

    // Phase 5: merge the position groups, a matrix at a time, and store.
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float highest = NO_SCORE;
    for (uint g = 0; g < POSITION_GROUPS; g++) {
        for (ushort step = 1; step < BLOCK; step *= 2) {
            sum[g] += simd_shuffle_xor(sum[g], step);
        }
        highest = max(highest, top[g]);
    }
    float total = 0.0f;
    for (uint g = 0; g < POSITION_GROUPS; g++) {
        total += sum[g] * precise::exp(top[g] - highest);
        if (position == 0u) {
            factors[g * HEADS + head] = precise::exp(top[g] - highest);
        }
    }
    if (position == 0u) {
        head_sums[head] = total;
        if (head < heads && params.nwg > 1u) {
            uint at = partial_pair_at(params.n_heads, first_head + head, split, params.nwg);
            dst[at] = total;
            dst[at + 1u] = highest;
        }
    }
    for (uint j = 0; j < MATRICES; j++) {
        simdgroup_store(acc[j], own_sums, SUM_PITCH);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint x = tid; x < heads * ROW_SUBGROUPS * SIDE; x += WORKGROUP_SIZE) {
            uint h = x / SIDE / ROW_SUBGROUPS;
            uint r = x / SIDE % ROW_SUBGROUPS;
            float value = 0.0f;
            for (uint g = 0; g < POSITION_GROUPS; g++) {
                value += factors[g * HEADS + h] * sums[(g * ROW_SUBGROUPS + r) * SUMS + h * SUM_PITCH + x % SIDE];
            }
            uint c = r * SUBGROUP_COORDS + coordinate(j / TURN_MATRICES, j % TURN_MATRICES * SIDE + x % SIDE);
            if (params.nwg == 1u) {
                dst[(first_head + h) * HEAD_DIM + c] = head_sums[h] == 0.0f ? 0.0f : value / head_sums[h];
            } else {
                dst[partial_at(first_head + h, c, split, params.nwg)] = value;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}
