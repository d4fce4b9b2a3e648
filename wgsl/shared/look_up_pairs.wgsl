// Centroids of K and V two at a time, from a table of all pairs of codes of TABLE_BITS bits.
//
// The table has COPIES copies, and a lane reads the one of its number modulo COPIES. With sixteen,
// lanes that are served together read different banks of workgroup memory whatever their codes are.
// Once nobody looks up any more, the same memory takes the accumulators of row groups to the merge.

const PAIRS = 1u << (2u * TABLE_BITS);
const MERGE_PAIRS = 2u * MERGE_VECTORS;

var<workgroup> pairs: array<array<vec2<f32>, COPIES>, max(PAIRS, (MERGE_PAIRS + COPIES - 1u) / COPIES)>;

const FILL_BARRIERS = 0u; // the table comes from constants
const LEVELS = 1u << TABLE_BITS;
const FILL_FIRSTS = min(LEVELS, WORKGROUP_SIZE / COPIES); // first codes of pairs filled at a time
const FILL_SECONDS = WORKGROUP_SIZE / COPIES / FILL_FIRSTS; // and second ones

// A thread keeps its first centroid, found by selects as in codebook_fill; the second is a constant.
fn look_up_fill(tid: u32) {
    for (var start = 0u; start < LEVELS; start += FILL_FIRSTS) { // unroll
        let first = start + tid / COPIES % FILL_FIRSTS;
        var value = CODEBOOK[TABLE_BASE];
        for (var i = 1u; i < LEVELS; i++) { // unroll
            value = select(value, CODEBOOK[TABLE_BASE + i], first == i);
        }
        for (var second = 0u; second < LEVELS; second++) { // unroll
            if (second % FILL_SECONDS == tid / COPIES / FILL_FIRSTS) {
                pairs[second * LEVELS + first][tid % COPIES] = vec2(value, CODEBOOK[TABLE_BASE + second]);
            }
        }
    }
}

fn look_up(words: vec2<u32>, at: u32, tid: u32) -> vec4<f32> {
    let first = field(words, at, TABLE_BITS, 0u, 2u * TABLE_BITS);
    let second = field(words, at, TABLE_BITS, 2u * TABLE_BITS, 2u * TABLE_BITS);
    return vec4(pairs[first][tid % COPIES], pairs[second][tid % COPIES]);
}

fn acc_put(i: u32, x: vec4<f32>) {
    pairs[2u * i / COPIES][2u * i % COPIES] = x.xy;
    pairs[2u * i / COPIES][2u * i % COPIES + 1u] = x.zw;
}
fn acc_get(i: u32) -> vec4<f32> {
    return vec4(pairs[2u * i / COPIES][2u * i % COPIES], pairs[2u * i / COPIES][2u * i % COPIES + 1u]);
}
