// Decodes packed rows by the codebooks, which sit in workgroup memory: a look-up by a value that
// differs from lane to lane would be slow from a constant array.
// Call codebook_fill from every thread, then a barrier, before the first look-up.
//
// A row is a stream of codes, first coordinate in the lowest bits. Eight codes are BITS bytes: at
// every width they lie in two consecutive words, and four of them fit one word.

var<workgroup> codebook: array<f32, CODEBOOK_LEN>;

// A thread picks its value by selects where there are few: a driver may keep an array that is indexed
// by a thread in memory, and with it others of its size, such as those of shared/rotate.
const MOST_SELECTED = min(32u, WORKGROUP_SIZE);
const FILL = min(CODEBOOK_LEN, 16u); // values that a thread picks from

fn codebook_fill(tid: u32) {
    if (CODEBOOK_LEN > MOST_SELECTED) {
        var table = CODEBOOK;
        for (var i = tid; i < CODEBOOK_LEN; i += WORKGROUP_SIZE) {
            codebook[i] = table[i];
        }
        return;
    }
    for (var first = 0u; first < min(CODEBOOK_LEN, MOST_SELECTED); first += FILL) { // unroll
        if (tid / FILL == first / FILL) {
            var value = CODEBOOK[first];
            for (var i = 1u; i < FILL; i++) { // unroll
                value = select(value, CODEBOOK[min(first + i, CODEBOOK_LEN - 1u)], tid % FILL == i);
            }
            if (first + tid % FILL < CODEBOOK_LEN) {
                codebook[first + tid % FILL] = value;
            }
        }
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

// `width` bits, `skip` after the first of four codes of `bits` bits that start at bit `at` of two words.
// They are masked where they lie and shifted then: drivers merge that shift with the scaling of the
// address that is looked up.
fn field(words: vec2<u32>, at: u32, bits: u32, skip: u32, width: u32) -> u32 {
    let mask = (1u << width) - 1u;
    if (32u % (4u * bits) == 0u) { // never in both words
        let shift = at % 32u + skip;
        return (select(words.x, words.y, at >= 32u) & (mask << shift)) >> shift;
    }
    return (funnel(words, at) & (mask << skip)) >> skip;
}

// Centroids of the four codes of `bits` bits that start at bit `at` of two words, by the codebook of
// this width at `base`.
fn centroids(words: vec2<u32>, at: u32, bits: u32, base: u32) -> vec4<f32> {
    return vec4(
        codebook[base + field(words, at, bits, 0u, bits)],
        codebook[base + field(words, at, bits, bits, bits)],
        codebook[base + field(words, at, bits, 2u * bits, bits)],
        codebook[base + field(words, at, bits, 3u * bits, bits)],
    );
}

// Factor from a centroid to a rotated coordinate, given the norm of its block.
fn decode_scale(norm: f32, scale_factor_d512: f32) -> f32 {
    if (NORMS_PER_POS == 1u) {
        return norm * INV_SQRT_HEAD_DIM;
    }
    return norm / scale_factor_d512;
}
