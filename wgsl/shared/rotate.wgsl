// Fast Walsh-Hadamard transform of one row, natural order, eight coordinates a thread.
//
// The stages commute, so they run in three passes, each on coordinates that a thread then holds:
// pass 1 (stride 64 and up) on `wide`, pass 2 (strides 4, 8, 16) on `middle`, pass 3 (1, 2, 32) on
// `narrow` ones. Wide ones are read, and narrow ones written, by neighbouring threads in
// neighbouring addresses. Between passes the row goes through workgroup memory. A thread writes
// back exactly the coordinates that it read, so one barrier a pass is enough; barriers stay in the
// entry point.

const ROW_THREADS = HEAD_DIM / 8u;
const ROW_PITCH = HEAD_DIM + ROW_THREADS; // one pad float every eight keeps strided access cheap
const LAST_SIGN_WORD = HEAD_DIM / 32u - 1u;

struct Octet {
    lo: vec4<f32>, // m = 0..3
    hi: vec4<f32>, // m = 4..7
}

// The coordinates of a thread: first + m * step in `lo`, and `far` further in `hi`.
struct Places {
    first: u32,
    step: u32,
    far: u32,
}

var<workgroup> exchange: array<f32, ROWS_PER_WORKGROUP * ROW_PITCH>;

fn wide(t: u32) -> Places {
    return Places(t, ROW_THREADS, 4u * ROW_THREADS);
}
fn middle(t: u32) -> Places {
    return Places(t / 8u * 64u + t / 4u % 2u * 32u + t % 4u, 4u, 16u);
}
fn narrow(t: u32) -> Places {
    return Places(t / 8u * 64u + t % 8u * 4u, 1u, 32u);
}

// Butterflies between m and m + 4, m and m + 2, m and m + 1.
fn butterfly4(x: Octet) -> Octet {
    return Octet(x.lo + x.hi, x.lo - x.hi);
}
fn butterfly2(x: Octet) -> Octet {
    return Octet(
        vec4(x.lo.xy + x.lo.zw, x.lo.xy - x.lo.zw),
        vec4(x.hi.xy + x.hi.zw, x.hi.xy - x.hi.zw),
    );
}
fn butterfly1(x: Octet) -> Octet {
    return Octet(
        vec4(x.lo.x + x.lo.y, x.lo.x - x.lo.y, x.lo.z + x.lo.w, x.lo.z - x.lo.w),
        vec4(x.hi.x + x.hi.y, x.hi.x - x.hi.y, x.hi.z + x.hi.w, x.hi.z - x.hi.w),
    );
}

// Pass 1: the strides 64, 128, 256 that this head_dim has.
fn pass_wide(x: Octet) -> Octet {
    var y = x;
    if (HEAD_DIM >= 128u) {
        y = butterfly4(y);
    }
    if (HEAD_DIM >= 256u) {
        y = butterfly2(y);
    }
    if (HEAD_DIM >= 512u) {
        y = butterfly1(y);
    }
    return y;
}

// Passes 2 and 3: three stages each.
fn pass_full(x: Octet) -> Octet {
    return butterfly1(butterfly2(butterfly4(x)));
}

// A distance between coordinates, with its pads. No sum of a first place and a distance within
// its eight carries, so pads add up.
fn padded(c: u32) -> u32 {
    return c + c / 8u;
}

fn exchange_put(row: u32, at: Places, x: Octet) {
    let first = row * ROW_PITCH + padded(at.first);
    for (var m = 0u; m < 4u; m++) { // unroll
        exchange[first + padded(m * at.step)] = x.lo[m];
        exchange[first + padded(m * at.step + at.far)] = x.hi[m];
    }
}

fn exchange_get(row: u32, at: Places) -> Octet {
    let first = row * ROW_PITCH + padded(at.first);
    var x: Octet;
    for (var m = 0u; m < 4u; m++) { // unroll
        x.lo[m] = exchange[first + padded(m * at.step)];
        x.hi[m] = exchange[first + padded(m * at.step + at.far)];
    }
    return x;
}

// The rotation's sign that bit c % 32 of a word holds, +1 or -1.
fn sign_in(word: u32, c: u32) -> f32 {
    return 1.0 - 2.0 * f32((word >> (c % 32u)) & 1u);
}

// Multiplies a thread's wide coordinates by their signs. Words are named by constants: an array
// that is indexed by a thread lies in memory.
fn apply_signs_wide(x: Octet, t: u32) -> Octet {
    var y = x;
    for (var m = 0u; m < 4u; m++) { // unroll
        let near = select(
            SIGN_WORDS[m * ROW_THREADS / 32u],
            SIGN_WORDS[min(m * ROW_THREADS / 32u + 1u, LAST_SIGN_WORD)],
            t >= 32u,
        );
        let far = select(
            SIGN_WORDS[(m + 4u) * ROW_THREADS / 32u],
            SIGN_WORDS[min((m + 4u) * ROW_THREADS / 32u + 1u, LAST_SIGN_WORD)],
            t >= 32u,
        );
        y.lo[m] *= sign_in(near, t + m * ROW_THREADS);
        y.hi[m] *= sign_in(far, t + (m + 4u) * ROW_THREADS);
    }
    return y;
}

// The same for its narrow ones, which lie in two neighbouring words.
fn apply_signs_narrow(x: Octet, t: u32) -> Octet {
    var words = vec2(0u);
    for (var i = 0u; i < ROW_THREADS / 8u; i++) { // unroll
        words = select(words, vec2(SIGN_WORDS[2u * i], SIGN_WORDS[2u * i + 1u]), t / 8u == i);
    }
    var y = x;
    for (var m = 0u; m < 4u; m++) { // unroll
        y.lo[m] *= sign_in(words.x, t % 8u * 4u + m);
        y.hi[m] *= sign_in(words.y, t % 8u * 4u + m);
    }
    return y;
}
