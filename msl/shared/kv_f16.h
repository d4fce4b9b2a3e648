// Dense K and V in f16: four coordinates are 8 bytes. The arithmetic is f32.
typedef half4 KvVec;

inline float4 widen(KvVec x) {
    return float4(x);
}
