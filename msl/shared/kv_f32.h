// Dense K and V in f32: four coordinates are 16 bytes.
typedef float4 KvVec;

inline float4 widen(KvVec x) {
    return x;
}
