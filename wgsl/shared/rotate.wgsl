// Fast Walsh-Hadamard transform of one row, natural order, EPT coordinates a thread.
//
// The stages commute, so they run in two passes, each on coordinates that a thread then holds:
// pass 1 (strides of ROW_THREADS and up) on every ROW_THREADS-th one, `wide`; pass 2 (the strides
// below) on EPT neighbours, `near`. A row has no more threads than a thread has coordinates, so two
// passes are enough. Wide ones are read and written by neighbouring threads in neighbouring
// addresses. Between passes the row goes through workgroup memory. A thread writes back exactly the
// coordinates that it read, so one barrier a pass is enough; barriers stay in the entry point.

const EPT = HEAD_DIM / ROW_THREADS; // coordinates of a thread: 8, 16 or 32

// A row in workgroup memory has THREAD_PAD free floats after each EPT, and ROW_PAD a thread in all.
const ROW_PITCH = HEAD_DIM + ROW_PAD * ROW_THREADS;

var<workgroup> exchange: array<f32, ROWS_PER_WORKGROUP * ROW_PITCH>;

// Pass 1: between coordinates m and m + h of a thread, for every h.
fn pass_wide(wide: array<f32, EPT>) -> array<f32, EPT> {
    var x = wide;
    for (var h = 1u; h < EPT; h <<= 1u) { // unroll
        for (var m = 0u; m < EPT / 2u; m++) { // unroll
            const i = m / h * 2u * h + m % h;
            let a = x[i];
            let b = x[i + h];
            x[i] = a + b;
            x[i + h] = a - b;
        }
    }
    return x;
}

// Pass 2: the same for every h under ROW_THREADS.
fn pass_near(near: array<f32, EPT>) -> array<f32, EPT> {
    var x = near;
    for (var h = 1u; h < ROW_THREADS; h <<= 1u) { // unroll
        for (var m = 0u; m < EPT / 2u; m++) { // unroll
            const i = m / h * 2u * h + m % h;
            let a = x[i];
            let b = x[i + h];
            x[i] = a + b;
            x[i + h] = a - b;
        }
    }
    return x;
}

fn put_wide(row: u32, t: u32, x: array<f32, EPT>) {
    var wide = x;
    for (var m = 0u; m < EPT; m++) { // unroll
        exchange[row * ROW_PITCH + t + (m * ROW_THREADS + m * ROW_THREADS / EPT * THREAD_PAD)] = wide[m];
    }
}
fn get_wide(row: u32, t: u32) -> array<f32, EPT> {
    var wide: array<f32, EPT>;
    for (var m = 0u; m < EPT; m++) { // unroll
        wide[m] = exchange[row * ROW_PITCH + t + (m * ROW_THREADS + m * ROW_THREADS / EPT * THREAD_PAD)];
    }
    return wide;
}
fn put_near(row: u32, t: u32, x: array<f32, EPT>) {
    var near = x;
    for (var m = 0u; m < EPT; m++) { // unroll
        exchange[row * ROW_PITCH + t * (EPT + THREAD_PAD) + m] = near[m];
    }
}
fn get_near(row: u32, t: u32) -> array<f32, EPT> {
    var near: array<f32, EPT>;
    for (var m = 0u; m < EPT; m++) { // unroll
        near[m] = exchange[row * ROW_PITCH + t * (EPT + THREAD_PAD) + m];
    }
    return near;
}

fn scaled(x: array<f32, EPT>, factor: f32) -> array<f32, EPT> {
    var y = x;
    for (var m = 0u; m < EPT; m++) { // unroll
        y[m] *= factor;
    }
    return y;
}

// Multiplies a thread's wide coordinates by their signs; a set bit is a minus. ROW_THREADS divides
// 32, so words are named by constants: an array that is indexed by a thread lies in memory.
fn apply_signs(t: u32, wide: array<f32, EPT>) -> array<f32, EPT> {
    var x = wide;
    for (var m = 0u; m < EPT; m++) { // unroll
        const bits = SIGN_WORDS[m * ROW_THREADS / 32u] >> (m * ROW_THREADS % 32u);
        x[m] = bitcast<f32>(bitcast<u32>(x[m]) ^ ((bits << (31u - t)) & 0x80000000u));
    }
    return x;
}
