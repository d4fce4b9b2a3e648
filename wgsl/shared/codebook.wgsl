// Decodes packed words by the codebook, which sits in workgroup memory: a look-up by a value
// that differs from lane to lane would be slow from a constant array.
// Call codebook_fill from every thread, then a barrier, before the first look-up.

const LEVELS = 1u << BITS;
const CODES_PER_WORD = 32u / BITS;

var<workgroup> codebook: array<f32, LEVELS>;

fn codebook_fill(tid: u32) {
    var table = CODEBOOK;
    for (var i = tid; i < LEVELS; i += WORKGROUP_SIZE) {
        codebook[i] = table[i];
    }
}

fn centroid(word: u32, i: u32) -> f32 {
    return codebook[(word >> (i * BITS)) & (LEVELS - 1u)];
}

// Centroids of coordinates 4 half .. 4 half + 3 of a word of eight 4-bit codes.
fn centroids(word: u32, half: u32) -> vec4<f32> {
    let codes = word >> (half * 16u);
    return vec4(centroid(codes, 0u), centroid(codes, 1u), centroid(codes, 2u), centroid(codes, 3u));
}

// Factor from a centroid to a rotated coordinate, given the norm of its block.
fn decode_scale(norm: f32, scale_factor_d512: f32) -> f32 {
    if (NORMS_PER_POS == 1u) {
        return norm * INV_SQRT_HEAD_DIM;
    }
    return norm / scale_factor_d512;
}
