// Dense K and V in f32: four coordinates are 16 bytes.
alias KvVec = vec4<f32>;

fn widen(x: KvVec) -> vec4<f32> {
    return x;
}
