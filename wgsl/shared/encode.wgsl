// Codes of rotated rows: nearest centroids, the norms of blocks, packing by whole words.
//
// Codes are those of a thread's `near` coordinates. There is no search: a polynomial names one
// boundary next to the coordinate's cell, and that boundary decides.

const BLOCK_THREADS = ROW_THREADS / NORMS_PER_POS; // threads whose near coordinates share a norm
const BLOCK_EPT = EPT / NORMS_PER_POS;             // wide coordinates of a thread that share a norm
const BLOCK_DIM = f32(HEAD_DIM / NORMS_PER_POS);   // all of those coordinates
const MOST_WORDS = EPT * MOST_BITS / 32u;          // of a thread's codes

var<workgroup> table: array<f32, TABLE_LEN>; // boundaries; for the norm correction centroids behind them
var<workgroup> squares: array<f32, NORMS_PER_POS * WORKGROUP_SIZE>; // [row][block][thread]

// Boundaries and, for the norm correction, centroids of codes of `bits` bits, which start at `base`.
fn fill_table(tid: u32, base: u32, bits: u32) {
    var boundaries = BOUNDARIES;
    var levels = CODEBOOK;
    for (var i = tid; i < 1u << bits; i += WORKGROUP_SIZE) {
        table[i] = boundaries[base + i];
        if (NORM_CORRECTION) {
            table[TABLE_LEN / 2u + i] = levels[base + i];
        }
    }
}

// Index of the nearest centroid, ties to the lower index. `guess` are the terms of
// src/codec/codebook/guess.rs: codes of up to four bits need only the first two.
fn nearest(z: f32, guess: array<f32, 5>, bits: u32) -> u32 {
    let u = saturate(z * guess[0] + 0.5);
    // So large a float has no bits below the point: the sum is rounded to a whole number, whose
    // bits are the lowest of the float.
    var rounded = u * guess[1] + 12582912.0;
    if (bits > 4u) {
        let x = u - 0.5;
        let s = x * x;
        let middle = f32((1u << (bits - 1u)) - 1u);
        let slope = guess[1] + s * (guess[2] + s * (guess[3] + s * guess[4]));
        rounded = x * slope + (12582912.0 + middle);
    }
    let boundary = bitcast<u32>(rounded) & ((1u << bits) - 1u);
    // The sign of the difference is set above the boundary, and not on it.
    return boundary + (bitcast<u32>(table[boundary] - z) >> 31u);
}

fn nearest_codes(
    x: array<f32, EPT>,
    scale: f32,
    guess: array<f32, 5>,
    bits: u32,
) -> array<u32, EPT> {
    var near = x;
    var codes: array<u32, EPT>;
    for (var m = 0u; m < EPT; m++) { // unroll
        codes[m] = nearest(near[m] * scale, guess, bits);
    }
    return codes;
}

// Squares of the wide coordinates of each block.
fn put_wide_squares(local_row: u32, t: u32, x: array<f32, EPT>) {
    var wide = x;
    for (var b = 0u; b < NORMS_PER_POS; b++) { // unroll
        var sum = 0.0;
        for (var m = 0u; m < BLOCK_EPT; m++) { // unroll
            sum += wide[b * BLOCK_EPT + m] * wide[b * BLOCK_EPT + m];
        }
        squares[(local_row * NORMS_PER_POS + b) * ROW_THREADS + t] = sum;
    }
}

// Squares of the centroids of near coordinates, all of one block.
fn put_centroid_squares(local_row: u32, t: u32, near: array<u32, EPT>) {
    var codes = near;
    var sum = 0.0;
    for (var m = 0u; m < EPT; m++) { // unroll
        let level = table[TABLE_LEN / 2u + codes[m]];
        sum += level * level;
    }
    for (var b = 0u; b < NORMS_PER_POS; b++) { // unroll
        let own = select(0.0, sum, t / BLOCK_THREADS == b);
        squares[(local_row * NORMS_PER_POS + b) * ROW_THREADS + t] = own;
    }
}

// Sum of the squares of a block.
fn block_sum(local_row: u32, block: u32) -> f32 {
    let first = (local_row * NORMS_PER_POS + block) * ROW_THREADS;
    var sum = 0.0;
    for (var i = 0u; i < ROW_THREADS; i++) { // unroll
        sum += squares[first + i];
    }
    return sum;
}

// The norm of a block whose squares add up to `sum`.
fn block_norm(sum: f32) -> f32 {
    if (NORMS_PER_POS == 2u) {
        return sqrt(sum / BLOCK_DIM);
    }
    return sqrt(sum);
}

// Factor from a rotated coordinate to the codebook's scale.
fn encode_scale(norm: f32, scale_factor_d512: f32) -> f32 {
    let scale = select(SQRT_HEAD_DIM, scale_factor_d512, NORMS_PER_POS == 2u);
    return select(scale / norm, 0.0, norm <= ZERO_NORM);
}

// The norm with which a block, whose centroids' squares add up to `sum`, is as long as it was.
fn corrected_norm(norm: f32, sum: f32, scale_factor_d512: f32) -> f32 {
    return norm / sqrt(sum / BLOCK_DIM) * select(1.0, scale_factor_d512, NORMS_PER_POS == 2u);
}

// A thread's codes as a stream of words, first coordinate in the lowest bits. They are whole words.
fn own_words(near: array<u32, EPT>, bits: u32) -> array<u32, MOST_WORDS> {
    var codes = near;
    var words: array<u32, MOST_WORDS>;
    for (var m = 0u; m < EPT; m++) { // unroll
        let at = m * bits;
        words[at / 32u] += codes[m] << (at % 32u);
        if (at % 32u + bits > 32u) {
            words[at / 32u + 1u] += codes[m] >> (32u - at % 32u);
        }
    }
    return words;
}

// A row, counted by tokens and their KV heads.
struct Row {
    row: u32,
    token: u32,
    kv_head: u32,
}

fn first_row(row: u32, num_kv_heads: u32) -> Row {
    return Row(row, row / num_kv_heads, row % num_kv_heads);
}

// The row `step` further on; a division for each takes longer.
fn next_row(at: Row, step: Row, num_kv_heads: u32) -> Row {
    let kv_head = at.kv_head + step.kv_head;
    let carry = kv_head >= num_kv_heads;
    return Row(
        at.row + step.row,
        at.token + step.token + select(0u, 1u, carry),
        select(kv_head, kv_head - num_kv_heads, carry),
    );
}

// Slot of a token. In a sliding run longer than the cache, the newest token of a slot wins:
// `left` tokens, this one included, follow from here.
fn slot_of(token: u32, write_pos: u32, cache_capacity: u32, is_sliding: u32) -> u32 {
    if (is_sliding != 0u) {
        return (write_pos + token % cache_capacity) % cache_capacity;
    }
    return write_pos + token;
}
fn overwritten(left: u32, cache_capacity: u32, is_sliding: u32) -> bool {
    return is_sliding != 0u && left > cache_capacity;
}
