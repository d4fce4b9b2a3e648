// A lane's codes of K are read a word at a time. They may start inside a word.
alias KUnit = u32;

// A lane's codes of one row, first code in the lowest bits.
fn k_words(row: u32, lane: u32) -> array<u32, K_WORDS> {
    let bit = lane * K_LANE_BITS;
    let first = row * K_ROW_WORDS + bit / 32u;
    let last = row * K_ROW_WORDS + (bit + K_LANE_BITS - 1u) / 32u;
    var words = array<u32, K_WORDS>();
    for (var i = 0u; i < K_WORDS; i++) { // unroll
        words[i] = k_packed[first + i];
        if (K_LANE_BITS % 32u != 0u) {
            words[i] = funnel(vec2(words[i], k_packed[min(first + i + 1u, last)]), bit % 32u);
        }
    }
    return words;
}
