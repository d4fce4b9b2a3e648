// A lane's codes of K are whole vectors of 16 bytes, and are read so.
alias KUnit = vec4<u32>;

// A lane's codes of one row, first code in the lowest bits.
fn k_words(row: u32, lane: u32) -> array<u32, K_WORDS> {
    let first = (row * LANES + lane) * (K_WORDS / 4u);
    var words = array<u32, K_WORDS>();
    for (var i = 0u; i < K_WORDS / 4u; i++) { // unroll
        let four = k_packed[first + i];
        words[4u * i] = four.x;
        words[4u * i + 1u] = four.y;
        words[4u * i + 2u] = four.z;
        words[4u * i + 3u] = four.w;
    }
    return words;
}
