// Centroids of K and V from copies of the codebook of TABLE_BITS bits. A width that is not TABLE_BITS is
// looked up in its codebook.
//
// There are COPIES copies, and a lane reads the one of its number modulo COPIES. With 32, lanes read
// different banks of workgroup memory whatever their codes are; in a single codebook of more than 32
// centroids they would meet. Once nobody looks up any more, the same memory takes the accumulators
// of row groups to the merge.

const LOOK_UP_TABLE = true;
const SINGLES = 1u << TABLE_BITS;
const MERGE_SINGLES = ROW_GROUPS * MERGE_HEADS * HEAD_DIM;

var<workgroup> singles: array<array<f32, COPIES>, max(SINGLES, (MERGE_SINGLES + COPIES - 1u) / COPIES)>;

// Call it from every thread between two barriers, after codebook_fill.
fn look_up_fill(tid: u32) {
    let base = select(V_BASE, 0u, K_BITS == TABLE_BITS);
    for (var code = tid / COPIES; code < SINGLES; code += WORKGROUP_SIZE / COPIES) {
        singles[code][tid % COPIES] = codebook[base + code];
    }
}

fn look_up(words: vec2<u32>, at: u32, tid: u32) -> vec4<f32> {
    return vec4(
        singles[field(words, at, TABLE_BITS, 0u, TABLE_BITS)][tid % COPIES],
        singles[field(words, at, TABLE_BITS, TABLE_BITS, TABLE_BITS)][tid % COPIES],
        singles[field(words, at, TABLE_BITS, 2u * TABLE_BITS, TABLE_BITS)][tid % COPIES],
        singles[field(words, at, TABLE_BITS, 3u * TABLE_BITS, TABLE_BITS)][tid % COPIES],
    );
}

// Centroids of the four codes that start at bit `at` of two words.
fn k_centroids(words: vec2<u32>, at: u32, tid: u32) -> vec4<f32> {
    if (K_BITS == TABLE_BITS) {
        return look_up(words, at, tid);
    }
    return centroids(words, at, K_BITS, 0u);
}
fn v_centroids(words: vec2<u32>, at: u32, tid: u32) -> vec4<f32> {
    if (V_BITS == TABLE_BITS) {
        return look_up(words, at, tid);
    }
    return centroids(words, at, V_BITS, V_BASE);
}

// Coordinates a quarter of the memory apart, so that lanes that put their own meet in no bank.
const QUARTER = (MERGE_SINGLES + 3u) / 4u;

fn acc_put(i: u32, x: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) { // unroll
        singles[(j * QUARTER + i) / COPIES][(j * QUARTER + i) % COPIES] = x[j];
    }
}
fn acc_get(i: u32) -> vec4<f32> {
    var x = vec4(0.0);
    for (var j = 0u; j < 4u; j++) { // unroll
        x[j] = singles[(j * QUARTER + i) / COPIES][(j * QUARTER + i) % COPIES];
    }
    return x;
}
