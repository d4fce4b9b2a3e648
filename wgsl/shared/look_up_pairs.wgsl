// Centroids of K and V two at a time, from a table of all pairs of codes of TABLE_BITS bits. A width
// that is not TABLE_BITS is looked up in its codebook.
//
// The table has COPIES copies, and a lane reads the one of its number modulo COPIES. With sixteen,
// lanes that are served together read different banks of workgroup memory whatever their codes are.
// Once nobody looks up any more, the same memory takes the accumulators of row groups to the merge.

const LOOK_UP_TABLE = true;
const PAIRS = 1u << (2u * TABLE_BITS);
const MERGE_PAIRS = ROW_GROUPS * MERGE_HEADS * HEAD_DIM / 2u;

var<workgroup> pairs: array<array<vec2<f32>, COPIES>, max(PAIRS, (MERGE_PAIRS + COPIES - 1u) / COPIES)>;

// Call it from every thread between two barriers, after codebook_fill.
fn look_up_fill(tid: u32) {
    let base = select(V_BASE, 0u, K_BITS == TABLE_BITS);
    for (var pair = tid / COPIES; pair < PAIRS; pair += WORKGROUP_SIZE / COPIES) {
        let first = codebook[base + pair % (1u << TABLE_BITS)];
        let second = codebook[base + (pair >> TABLE_BITS)];
        pairs[pair][tid % COPIES] = vec2(first, second);
    }
}

fn look_up(words: vec2<u32>, at: u32, tid: u32) -> vec4<f32> {
    let first = field(words, at, TABLE_BITS, 0u, 2u * TABLE_BITS);
    let second = field(words, at, TABLE_BITS, 2u * TABLE_BITS, 2u * TABLE_BITS);
    return vec4(pairs[first][tid % COPIES], pairs[second][tid % COPIES]);
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

fn acc_put(i: u32, x: vec4<f32>) {
    pairs[2u * i / COPIES][2u * i % COPIES] = x.xy;
    pairs[2u * i / COPIES][2u * i % COPIES + 1u] = x.zw;
}
fn acc_get(i: u32) -> vec4<f32> {
    return vec4(pairs[2u * i / COPIES][2u * i % COPIES], pairs[2u * i / COPIES][2u * i % COPIES + 1u]);
}
