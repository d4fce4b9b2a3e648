// A lane's codes of V are read a word at a time. They may start inside a word.
alias VUnit = u32;

// A lane's codes of one row, first code in the lowest bits.
fn v_words(row: u32, lane: u32) -> array<u32, V_WORDS> {
    let bit = lane * V_LANE_BITS;
    let first = row * V_ROW_WORDS + bit / 32u;
    let last = row * V_ROW_WORDS + (bit + V_LANE_BITS - 1u) / 32u;
    var words = array<u32, V_WORDS>();
    for (var i = 0u; i < V_WORDS; i++) { // unroll
        words[i] = v_packed[first + i];
        if (V_LANE_BITS % 32u != 0u) {
            words[i] = funnel(vec2(words[i], v_packed[min(first + i + 1u, last)]), bit % 32u);
        }
    }
    return words;
}
