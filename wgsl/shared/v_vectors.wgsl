// A lane's codes of V are whole vectors of 16 bytes, and are read so.
alias VUnit = vec4<u32>;

// A lane's codes of one row, first code in the lowest bits.
fn v_words(row: u32, lane: u32) -> array<u32, V_WORDS> {
    let first = (row * LANES + lane) * (V_WORDS / 4u);
    var words = array<u32, V_WORDS>();
    for (var i = 0u; i < V_WORDS / 4u; i++) { // unroll
        let four = v_packed[first + i];
        words[4u * i] = four.x;
        words[4u * i + 1u] = four.y;
        words[4u * i + 2u] = four.z;
        words[4u * i + 3u] = four.w;
    }
    return words;
}
