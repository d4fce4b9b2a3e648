// A lane's codes of V are whole pairs of words, and are read so.
alias VUnit = vec2<u32>;

// A lane's codes of one row, first code in the lowest bits.
fn v_words(row: u32, lane: u32) -> array<u32, V_WORDS> {
    let first = (row * LANES + lane) * (V_WORDS / 2u);
    var words = array<u32, V_WORDS>();
    for (var i = 0u; i < V_WORDS / 2u; i++) { // unroll
        let two = v_packed[first + i];
        words[2u * i] = two.x;
        words[2u * i + 1u] = two.y;
    }
    return words;
}
