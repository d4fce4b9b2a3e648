// Decodes packed rows by the codebooks, which sit in workgroup memory: a look-up by a value that
// differs from lane to lane would be slow from a constant array.
// Call codebook_fill from every thread, then a barrier, before the first look-up.
//
// A row is a stream of codes, first coordinate in the lowest bits. Eight codes are BITS bytes: at
// every width they lie in two consecutive words, and four of them fit one word.

var<workgroup> codebook: array<f32, CODEBOOK_LEN>;

fn codebook_fill(tid: u32) {
    var table = CODEBOOK;
    for (var i = tid; i < CODEBOOK_LEN; i += WORKGROUP_SIZE) {
        codebook[i] = table[i];
    }
}

// How far the second word of the eight codes that start at `bit` is from the first: 0 or 1.
fn second_word(bit: u32, bits: u32) -> u32 {
    return select(0u, 1u, bit % 32u + 8u * bits > 32u);
}

// Four codes of `bits` bits from bit `at` of two words; what follows them is not cleared.
fn four_codes(words: vec2<u32>, at: u32, bits: u32) -> u32 {
    if (32u % (4u * bits) == 0u) { // never in both words
        return select(words.x, words.y, at >= 32u) >> (at % 32u);
    }
    return funnel(words, at);
}

// 32 bits from bit `at` of two words.
fn funnel(words: vec2<u32>, at: u32) -> u32 {
    let shift = at % 32u;
    let low = (words.x >> shift) | ((words.y << (31u - shift)) << 1u);
    return select(low, words.y >> shift, at >= 32u);
}

// Centroids of four codes, by the codebook of this width at `base`. Of four bits, every other code
// is cleared at once: fewer integer operations where none cuts a field out of a word.
fn centroids(codes: u32, bits: u32, base: u32) -> vec4<f32> {
    if (bits == 4u) {
        let even = codes & 0x0f0fu;
        let odd = (codes >> 4u) & 0x0f0fu;
        return vec4(
            codebook[base + (even & 0xffu)],
            codebook[base + (odd & 0xffu)],
            codebook[base + (even >> 8u)],
            codebook[base + (odd >> 8u)],
        );
    }
    let mask = (1u << bits) - 1u;
    return vec4(
        codebook[base + (codes & mask)],
        codebook[base + ((codes >> bits) & mask)],
        codebook[base + ((codes >> (2u * bits)) & mask)],
        codebook[base + ((codes >> (3u * bits)) & mask)],
    );
}

// Factor from a centroid to a rotated coordinate, given the norm of its block.
fn decode_scale(norm: f32, scale_factor_d512: f32) -> f32 {
    if (NORMS_PER_POS == 1u) {
        return norm * INV_SQRT_HEAD_DIM;
    }
    return norm / scale_factor_d512;
}
