// Centroids of K and V by the codebooks as they are.

const LOOK_UP_TABLE = false; // nothing to fill
const FILL_BARRIERS = 0u;

fn look_up_fill(tid: u32) {
}

// Centroids of the four codes that start at bit `at` of two words.
fn k_centroids(words: vec2<u32>, at: u32, tid: u32) -> vec4<f32> {
    return centroids(words, at, K_BITS, 0u);
}
fn v_centroids(words: vec2<u32>, at: u32, tid: u32) -> vec4<f32> {
    return centroids(words, at, V_BITS, V_BASE);
}
