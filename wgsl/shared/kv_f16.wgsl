// Dense K and V in f16: four coordinates are two words. Unpacked by a core built-in, so no f16
// feature is needed; the arithmetic is f32.
alias KvVec = vec2<u32>;

fn widen(x: KvVec) -> vec4<f32> {
    return vec4(unpack2x16float(x.x), unpack2x16float(x.y));
}
