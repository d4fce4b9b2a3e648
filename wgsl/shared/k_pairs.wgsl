// A lane's codes of K are whole pairs of words, and are read so.
alias KUnit = vec2<u32>;

// A lane's codes of one row, first code in the lowest bits.
fn k_words(row: u32, lane: u32) -> array<u32, K_WORDS> {
    let first = (row * LANES + lane) * (K_WORDS / 2u);
    var words = array<u32, K_WORDS>();
    for (var i = 0u; i < K_WORDS / 2u; i++) { // unroll
        let two = k_packed[first + i];
        words[2u * i] = two.x;
        words[2u * i + 1u] = two.y;
    }
    return words;
}
