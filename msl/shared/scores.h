// What every attention kernel computes alike: which positions are visible, where they lie, the
// softcap, and the layout of partials.

constant constexpr float NO_SCORE = -1.7014118e38f; // maximum before anything was seen: -FLT_MAX / 2

// First visible chronological position.
inline uint first_visible(uint n, uint mask_type, uint sliding_window) {
    return mask_type == 2u && sliding_window > 0u && sliding_window < n ? n - sliding_window : 0u;
}

// Slot of chronological position i. Before the wrap s - capacity is far above s.
inline uint ring_slot(uint i, uint ring_start, uint capacity) {
    uint s = ring_start + i;
    return min(s, s - capacity);
}

// c * tanh(s / c), or s when c is 0. Near 0 by its series, elsewhere with exp of a negative
// argument: that never overflows, as the fast tanh does.
inline float soften(float s, float c) {
    if (c <= 0.0f) {
        return s;
    }
    float x = s / c;
    float x2 = x * x;
    if (x2 < 0.0625f) {
        return s * (1.0f - x2 * (1.0f / 3.0f - x2 * (2.0f / 15.0f - x2 * (17.0f / 315.0f - x2 * (62.0f / 2835.0f)))));
    }
    float t = precise::exp(-2.0f * abs(x));
    return sign(s) * c * ((1.0f - t) / (1.0f + t));
}

// Float index of coordinate c of row r, split w, in the partials layout.
inline uint partial_at(uint r, uint c, uint w, uint nwg) {
    return ((r * (HEAD_DIM / 4u) + c / 4u) * nwg + w) * 4u + c % 4u;
}

// Float index of the pair (S, M) of row r, split w.
inline uint partial_pair_at(uint nrows, uint r, uint w, uint nwg) {
    return nrows * HEAD_DIM * nwg + r * 2u * nwg + 2u * w;
}
