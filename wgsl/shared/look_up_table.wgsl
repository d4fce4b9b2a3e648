// Centroids of K and V from the table of look_up_pairs or look_up_singles. A width that is not TABLE_BITS
// is looked up in its codebook.
//
// Call look_up_fill from every thread, before a barrier; after codebook_fill, and FILL_BARRIERS in between.

const LOOK_UP_TABLE = true;

const TABLE_BASE = select(V_BASE, 0u, K_BITS == TABLE_BITS); // where the codebook of TABLE_BITS is

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
