// Eight neighbouring coordinates of a cache row, from the words that hold them: codes of 2 to 8
// bits (see shared/codebook.wgsl), halves or floats. Halves are unpacked by a core built-in, so
// no f16 feature is needed.

struct Octet {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

fn octet_of_codes(words: vec2<u32>, bit: u32, bits: u32, base: u32, factor: f32) -> Octet {
    let lo = centroids(vec2(four_codes(words, bit % 32u, bits), 0u), 0u, bits, base);
    let hi = centroids(vec2(four_codes(words, bit % 32u + 4u * bits, bits), 0u), 0u, bits, base);
    return Octet(lo * factor, hi * factor);
}

fn octet_of_halves(words: vec4<u32>) -> Octet {
    return Octet(
        vec4(unpack2x16float(words.x), unpack2x16float(words.y)),
        vec4(unpack2x16float(words.z), unpack2x16float(words.w)),
    );
}

fn octet_of_floats(lo: vec4<u32>, hi: vec4<u32>) -> Octet {
    return Octet(bitcast<vec4<f32>>(lo), bitcast<vec4<f32>>(hi));
}
