// Eight neighbouring coordinates of a cache row, from the words that hold them: codes of 2 to 8
// bits (see shared/codebook.h), halves or floats.

struct Octet {
    float4 lo;
    float4 hi;
};

inline Octet octet_of_codes(
    threadgroup const float *codebook, uint2 words, uint bit, uint bits, uint base, float factor) {
    float4 lo = centroids(codebook, uint2(four_codes(words, bit % 32u, bits), 0u), 0u, bits, base);
    float4 hi = centroids(codebook, uint2(four_codes(words, bit % 32u + 4u * bits, bits), 0u), 0u, bits, base);
    return Octet{lo * factor, hi * factor};
}

inline float2 two_halves(uint word) {
    return float2(as_type<half2>(word));
}

inline Octet octet_of_halves(uint4 words) {
    return Octet{
        float4(two_halves(words.x), two_halves(words.y)),
        float4(two_halves(words.z), two_halves(words.w))};
}

inline Octet octet_of_floats(uint4 lo, uint4 hi) {
    return Octet{as_type<float4>(lo), as_type<float4>(hi)};
}
