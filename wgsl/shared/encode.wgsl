// Codes of rotated rows, whose coordinates a thread holds as `narrow` ones: nearest centroids, the
// norms of blocks, packing by whole words.
//
// Boundaries are a binary tree, level by level: node 1 is the middle one, below node k are 2 k and
// 2 k + 1. On every level lanes then read neighbouring words.

const BLOCK_THREADS = ROW_THREADS / NORMS_PER_POS; // threads whose coordinates share a norm
const BLOCK_DIM = f32(HEAD_DIM / NORMS_PER_POS);   // those coordinates

struct Codes {
    lo: vec4<u32>,
    hi: vec4<u32>,
}

var<workgroup> table: array<f32, TABLE_LEN>; // boundaries; for the norm correction then centroids
var<workgroup> squares: array<f32, WORKGROUP_SIZE>;
var<workgroup> fours: array<u32, ROWS_PER_WORKGROUP * HEAD_DIM / 4u>; // [row][four codes]

// The tables of codes of `bits` bits start at `base`.
fn fill_boundaries(tid: u32, base: u32, bits: u32) {
    var trees = BOUNDARY_TREES;
    for (var i = tid; i < 1u << bits; i += WORKGROUP_SIZE) {
        table[i] = trees[base + i];
    }
}
fn fill_centroids(tid: u32, base: u32, bits: u32) {
    var levels = CODEBOOK;
    for (var i = tid; i < 1u << bits; i += WORKGROUP_SIZE) {
        table[i] = levels[base + i];
    }
}

// Index of the nearest centroid, ties to the lower index. `top` are the first two levels.
fn nearest(z: f32, top: vec3<f32>, bits: u32) -> u32 {
    let upper = z > top.x;
    let second = z > select(top.y, top.z, upper);
    var node = 4u + select(0u, 2u, upper) + select(0u, 1u, second);
    for (var level = 2u; level < bits; level++) {
        node = 2u * node + select(0u, 1u, z > table[node]);
    }
    return node - (1u << bits);
}

fn nearest_four(z: vec4<f32>, top: vec3<f32>, bits: u32) -> vec4<u32> {
    return vec4(
        nearest(z.x, top, bits),
        nearest(z.y, top, bits),
        nearest(z.z, top, bits),
        nearest(z.w, top, bits),
    );
}

fn nearest_codes(x: Octet, scale: f32, bits: u32) -> Codes {
    let top = vec3(table[1], table[2], table[3]);
    return Codes(nearest_four(x.lo * scale, top, bits), nearest_four(x.hi * scale, top, bits));
}

// Sum of the squares of the block whose first thread is `first`.
fn block_sum(first: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < BLOCK_THREADS; i++) { // unroll
        sum += squares[first + i];
    }
    return sum;
}

fn squares_of(x: Octet) -> f32 {
    return dot(x.lo, x.lo) + dot(x.hi, x.hi);
}

fn centroids_of(codes: Codes) -> Octet {
    let lo = vec4(table[codes.lo.x], table[codes.lo.y], table[codes.lo.z], table[codes.lo.w]);
    let hi = vec4(table[codes.hi.x], table[codes.hi.y], table[codes.hi.z], table[codes.hi.w]);
    return Octet(lo, hi);
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

// Four codes side by side, the first in the lowest bits.
fn four(codes: vec4<u32>, bits: u32) -> u32 {
    return codes.x | (codes.y << bits) | (codes.z << (2u * bits)) | (codes.w << (3u * bits));
}

fn put_codes(local_row: u32, t: u32, codes: Codes, bits: u32) {
    let at = local_row * (HEAD_DIM / 4u) + narrow(t).first / 4u;
    fours[at] = four(codes.lo, bits);
    fours[at + 8u] = four(codes.hi, bits);
}

// Word w of a row: its codes as a stream, first coordinate in the lowest bits.
fn packed_word(local_row: u32, w: u32, bits: u32) -> u32 {
    let row = local_row * (HEAD_DIM / 4u);
    let width = 4u * bits;
    let first = 32u * w / width;
    var word = fours[row + first] >> (32u * w % width);
    for (var f = first + 1u; f * width < 32u * (w + 1u); f++) {
        word |= fours[row + f] << (f * width - 32u * w);
    }
    return word;
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
