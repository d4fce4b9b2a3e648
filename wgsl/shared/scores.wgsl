// What every attention kernel computes alike: which positions are visible, where they lie, the
// softcap, and the layout of partials.

const NO_SCORE = -1.7014118e38; // maximum before anything was seen: -FLT_MAX / 2

// First visible chronological position.
fn first_visible(n: u32, mask_type: u32, sliding_window: u32) -> u32 {
    if (mask_type == 2u && sliding_window > 0u && sliding_window < n) {
        return n - sliding_window;
    }
    return 0u;
}

// Slot of chronological position i. Before the wrap s - capacity is far above s.
fn ring_slot(i: u32, ring_start: u32, capacity: u32) -> u32 {
    let s = ring_start + i;
    return min(s, s - capacity);
}

// c * tanh(s / c), or s when c is 0. Near 0 by its series, elsewhere with exp of a negative
// argument: that never overflows, as the built-in tanh does on some drivers.
fn soften(s: f32, c: f32) -> f32 {
    if (c <= 0.0) {
        return s;
    }
    let x = s / c;
    let x2 = x * x;
    if (x2 < 0.0625) {
        return s * (1.0 - x2 * (1.0 / 3.0 - x2 * (2.0 / 15.0 - x2 * (17.0 / 315.0 - x2 * (62.0 / 2835.0)))));
    }
    let t = exp(-2.0 * abs(x));
    return sign(s) * c * ((1.0 - t) / (1.0 + t));
}

// Float index of coordinate c of row r, split w, in the partials layout.
fn partial_at(r: u32, c: u32, w: u32, nwg: u32) -> u32 {
    return ((r * (HEAD_DIM / 4u) + c / 4u) * nwg + w) * 4u + c % 4u;
}

// Float index of the pair (S, M) of row r, split w.
fn partial_pair_at(nrows: u32, r: u32, w: u32, nwg: u32) -> u32 {
    return nrows * HEAD_DIM * nwg + r * 2u * nwg + 2u * w;
}
