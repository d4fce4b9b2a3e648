// Fast Walsh-Hadamard transform of one row, natural order, eight coordinates a thread.
//
// The stages commute, so they run in three passes of up to three stages, from the widest stride
// to the narrowest. Pass 1 (stride 64 and up) works on coordinates t + m * ROW_THREADS, pass 2
// (strides 8, 16, 32) on (t / 8) * 64 + t % 8 + 8 m, pass 3 (1, 2, 4) on 8 t + m, for m = 0..7.
// Between passes the row goes through workgroup memory. A thread writes back exactly the
// coordinates that it read, so one barrier a pass is enough; barriers stay in the entry point.

const ROW_THREADS = HEAD_DIM / 8u;
const ROW_PITCH = HEAD_DIM + ROW_THREADS; // one pad float every eight keeps strided access cheap

struct Octet {
    lo: vec4<f32>, // m = 0..3
    hi: vec4<f32>, // m = 4..7
}

var<workgroup> exchange: array<f32, ROWS_PER_WORKGROUP * ROW_PITCH>;

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

// First coordinate of a thread in pass 2; the stride is 8.
fn middle_first(t: u32) -> u32 {
    return (t / 8u) * 64u + t % 8u;
}

fn exchange_at(row: u32, c: u32) -> u32 {
    return row * ROW_PITCH + c + c / 8u;
}

fn exchange_put(row: u32, first: u32, stride: u32, x: Octet) {
    for (var m = 0u; m < 4u; m++) {
        exchange[exchange_at(row, first + m * stride)] = x.lo[m];
        exchange[exchange_at(row, first + (m + 4u) * stride)] = x.hi[m];
    }
}

fn exchange_get(row: u32, first: u32, stride: u32) -> Octet {
    var x: Octet;
    for (var m = 0u; m < 4u; m++) {
        x.lo[m] = exchange[exchange_at(row, first + m * stride)];
        x.hi[m] = exchange[exchange_at(row, first + (m + 4u) * stride)];
    }
    return x;
}

// The rotation's sign of coordinate c, +1 or -1.
fn sign_of(c: u32) -> f32 {
    var words = SIGN_WORDS;
    return 1.0 - 2.0 * f32((words[c / 32u] >> (c % 32u)) & 1u);
}

// Multiplies coordinates first + m * stride by their signs.
fn apply_signs(x: Octet, first: u32, stride: u32) -> Octet {
    var y = x;
    for (var m = 0u; m < 4u; m++) {
        y.lo[m] *= sign_of(first + m * stride);
        y.hi[m] *= sign_of(first + (m + 4u) * stride);
    }
    return y;
}
