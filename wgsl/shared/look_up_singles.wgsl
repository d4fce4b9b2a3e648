// Centroids of K and V from copies of the codebook of TABLE_BITS bits.
//
// There are COPIES copies, and a lane reads the one of its number modulo COPIES. With 32, lanes read
// different banks of workgroup memory whatever their codes are; in a single codebook of more than 32
// centroids they would meet. Once nobody looks up any more, the same memory takes the accumulators
// of row groups to the merge.

const SINGLES = 1u << TABLE_BITS;
const MERGE_SINGLES = 4u * MERGE_VECTORS;

var<workgroup> singles: array<array<f32, COPIES>, max(SINGLES, (MERGE_SINGLES + COPIES - 1u) / COPIES)>;

const FILL_BARRIERS = 1u; // the table comes from the codebook

fn look_up_fill(tid: u32) {
    for (var start = 0u; start < SINGLES; start += WORKGROUP_SIZE / COPIES) { // unroll
        let code = start + tid / COPIES;
        singles[code][tid % COPIES] = codebook[TABLE_BASE + code];
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
