// Math, integer, relational and packing functions. f16 goes through f32 and rounds once.
// The precise and the fast variant of a function are the same here: both are closer to the exact
// value than either is on a GPU, so results are to be compared with a tolerance.
#pragma once
#pragma clang system_header

namespace metal {
#define MSL_OF_VECTORS_1(f)                                       \
    template <class T, int N> inline vec<T, N> f(vec<T, N> a) {   \
        vec<T, N> r;                                              \
        for (int i = 0; i < N; i++) r.d[i] = f(a.d[i]);           \
        return r;                                                 \
    }
#define MSL_OF_VECTORS_2(f)                                                                            \
    template <class T, int N> inline vec<T, N> f(vec<T, N> a, typename msl_same<vec<T, N>>::type b) {  \
        vec<T, N> r;                                                                                   \
        for (int i = 0; i < N; i++) r.d[i] = f(a.d[i], b.d[i]);                                        \
        return r;                                                                                      \
    }
#define MSL_OF_VECTORS_3(f)                                                                            \
    template <class T, int N>                                                                          \
    inline vec<T, N> f(vec<T, N> a, typename msl_same<vec<T, N>>::type b, typename msl_same<vec<T, N>>::type c) { \
        vec<T, N> r;                                                                                   \
        for (int i = 0; i < N; i++) r.d[i] = f(a.d[i], b.d[i], c.d[i]);                                \
        return r;                                                                                      \
    }

// Function, and its f32 expression in x (and y).
#define MSL_MATH_1(X)                                            \
    X(exp, __builtin_expf(x))                                    \
    X(exp2, __builtin_exp2f(x))                                  \
    X(exp10, __builtin_powf(10.0f, x))                           \
    X(log, __builtin_logf(x))                                    \
    X(log2, __builtin_log2f(x))                                  \
    X(log10, __builtin_log10f(x))                                \
    X(sin, __builtin_sinf(x))                                    \
    X(cos, __builtin_cosf(x))                                    \
    X(tan, __builtin_tanf(x))                                    \
    X(asin, __builtin_asinf(x))                                  \
    X(acos, __builtin_acosf(x))                                  \
    X(atan, __builtin_atanf(x))                                  \
    X(sinh, __builtin_sinhf(x))                                  \
    X(cosh, __builtin_coshf(x))                                  \
    X(tanh, __builtin_tanhf(x))                                  \
    X(asinh, __builtin_asinhf(x))                                \
    X(acosh, __builtin_acoshf(x))                                \
    X(atanh, __builtin_atanhf(x))                                \
    X(sinpi, __builtin_sinf(M_PI_F * x))                         \
    X(cospi, __builtin_cosf(M_PI_F * x))                         \
    X(sqrt, __builtin_sqrtf(x))                                  \
    X(rsqrt, 1.0f / __builtin_sqrtf(x))                          \
    X(floor, __builtin_floorf(x))                                \
    X(ceil, __builtin_ceilf(x))                                  \
    X(trunc, __builtin_truncf(x))                                \
    X(rint, __builtin_rintf(x))                                  \
    X(round, __builtin_roundf(x))                                \
    X(fract, x - __builtin_floorf(x))                            \
    X(fabs, __builtin_fabsf(x))                                  \
    X(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f)           \
    X(saturate, !(x > 0.0f) ? 0.0f : x > 1.0f ? 1.0f : x)
#define MSL_MATH_2(X)                                            \
    X(pow, __builtin_powf(x, y))                                 \
    X(powr, __builtin_powf(x, y))                                \
    X(atan2, __builtin_atan2f(x, y))                             \
    X(fmod, __builtin_fmodf(x, y))                               \
    X(copysign, __builtin_copysignf(x, y))                       \
    X(fmin, __builtin_fminf(x, y))                               \
    X(fmax, __builtin_fmaxf(x, y))                               \
    X(fdim, __builtin_fdimf(x, y))                               \
    X(step, y < x ? 0.0f : 1.0f)                                 \
    X(nextafter, __builtin_nextafterf(x, y))                     \
    X(divide, x / y)
#define MSL_DEFINE_1(f, expression)                              \
    inline float f(float x) { return expression; }               \
    inline half f(half h) {                                      \
        float x = h;                                             \
        return (half)(expression);                               \
    }                                                            \
    MSL_OF_VECTORS_1(f)
#define MSL_DEFINE_2(f, expression)                              \
    inline float f(float x, float y) { return expression; }      \
    inline half f(half g, half h) {                              \
        float x = g, y = h;                                      \
        return (half)(expression);                               \
    }                                                            \
    MSL_OF_VECTORS_2(f)
MSL_MATH_1(MSL_DEFINE_1)
MSL_MATH_2(MSL_DEFINE_2)

// An integer argument would be ambiguous between float and half.
#define MSL_OF_INTEGERS(f) \
    template <class T> inline enable_if_t<is_integral<T>::value, float> f(T v) { return f((float)v); }
MSL_OF_INTEGERS(sqrt) MSL_OF_INTEGERS(rsqrt) MSL_OF_INTEGERS(exp) MSL_OF_INTEGERS(log) MSL_OF_INTEGERS(sin) MSL_OF_INTEGERS(cos)

inline float mix(float x, float y, float a) { return x + (y - x) * a; }
inline half mix(half x, half y, half a) { return (half)mix((float)x, (float)y, (float)a); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline half fma(half a, half b, half c) { return (half)__builtin_fma((double)a, (double)b, (double)c); }
inline float smoothstep(float a, float b, float x) {
    float t = saturate((x - a) / (b - a));
    return t * t * (3.0f - 2.0f * t);
}
MSL_OF_VECTORS_3(mix)
MSL_OF_VECTORS_3(fma)
template <class T, int N> inline vec<T, N> mix(vec<T, N> a, vec<T, N> b, T t) { return mix(a, b, vec<T, N>(t)); }

inline float ldexp(float x, int e) { return __builtin_ldexpf(x, e); }
inline half ldexp(half x, int e) { return (half)__builtin_ldexpf(x, e); }
inline float frexp(float x, int &e) { return __builtin_frexpf(x, &e); }
inline int ilogb(float x) { return __builtin_ilogbf(x); }
inline float modf(float x, float &whole) {
    whole = __builtin_truncf(x);
    return x - whole;
}
inline float sincos(float x, float &c) {
    c = __builtin_cosf(x);
    return __builtin_sinf(x);
}

// min, max and what is made of them. For floats, a NaN loses against a number.
#define MSL_MADE_OF_MIN_MAX(T)                                                                   \
    inline T clamp(T x, T low, T high) { return min(max(x, low), high); }                        \
    inline T min3(T a, T b, T c) { return min(min(a, b), c); }                                   \
    inline T max3(T a, T b, T c) { return max(max(a, b), c); }                                   \
    inline T median3(T a, T b, T c) { return max(min(a, b), min(max(a, b), c)); }                \
    inline T select(T a, T b, bool c) { return c ? b : a; }
#define MSL_INTEGER_MIN_MAX(T)                                                                   \
    inline T min(T a, T b) { return b < a ? b : a; }                                             \
    inline T max(T a, T b) { return a < b ? b : a; }                                             \
    MSL_MADE_OF_MIN_MAX(T)
#define MSL_FLOAT_MIN_MAX(T)                                                                     \
    inline T min(T a, T b) { return a != a ? b : b != b ? a : b < a ? b : a; }                   \
    inline T max(T a, T b) { return a != a ? b : b != b ? a : a < b ? b : a; }                   \
    MSL_MADE_OF_MIN_MAX(T)                                                                       \
    inline T abs(T a) { return fabs(a); }                                                        \
    inline bool isnan(T a) { return a != a; }                                                    \
    inline bool isinf(T a) { return __builtin_fabsf((float)a) == __builtin_inff(); }             \
    inline bool isfinite(T a) { return !isnan(a) && !isinf(a); }                                 \
    inline bool isnormal(T a) { return isfinite(a) && fabs(a) >= numeric_limits<T>::min(); }     \
    inline bool signbit(T a) { return __builtin_signbitf((float)a); }
#define MSL_SIGNED(T, U)                                                                         \
    inline T abs(T a) { return a < 0 ? (T)-a : a; }                                              \
    inline U absdiff(T a, T b) { return a < b ? (U)b - (U)a : (U)a - (U)b; }
#define MSL_UNSIGNED(T)                                                                          \
    inline T abs(T a) { return a; }                                                              \
    inline T absdiff(T a, T b) { return a < b ? b - a : a - b; }
MSL_INTEGER_MIN_MAX(char) MSL_INTEGER_MIN_MAX(signed char) MSL_INTEGER_MIN_MAX(uchar) MSL_INTEGER_MIN_MAX(short)
MSL_INTEGER_MIN_MAX(ushort) MSL_INTEGER_MIN_MAX(int) MSL_INTEGER_MIN_MAX(uint) MSL_INTEGER_MIN_MAX(long) MSL_INTEGER_MIN_MAX(ulong)
MSL_FLOAT_MIN_MAX(float) MSL_FLOAT_MIN_MAX(half)
MSL_SIGNED(char, uchar) MSL_SIGNED(short, ushort) MSL_SIGNED(int, uint) MSL_SIGNED(long, ulong)
MSL_UNSIGNED(uchar) MSL_UNSIGNED(ushort) MSL_UNSIGNED(uint) MSL_UNSIGNED(ulong)
MSL_OF_VECTORS_2(min) MSL_OF_VECTORS_2(max) MSL_OF_VECTORS_3(clamp) MSL_OF_VECTORS_3(min3) MSL_OF_VECTORS_3(max3) MSL_OF_VECTORS_1(abs)

// ---- Relational and geometric ----
#define MSL_PREDICATE(f)                                              \
    template <class T, int N> inline vec<bool, N> f(vec<T, N> a) {    \
        vec<bool, N> r;                                               \
        for (int i = 0; i < N; i++) r.d[i] = f(a.d[i]);               \
        return r;                                                     \
    }
MSL_PREDICATE(isnan) MSL_PREDICATE(isinf) MSL_PREDICATE(isfinite) MSL_PREDICATE(signbit)
inline bool select(bool a, bool b, bool c) { return c ? b : a; }
template <class T, int N> inline vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r.d[i] = c.d[i] ? b.d[i] : a.d[i];
    return r;
}
inline bool any(bool b) { return b; }
inline bool all(bool b) { return b; }
template <int N> inline bool any(vec<bool, N> v) {
    bool r = false;
    for (int i = 0; i < N; i++) r |= v.d[i];
    return r;
}
template <int N> inline bool all(vec<bool, N> v) {
    bool r = true;
    for (int i = 0; i < N; i++) r &= v.d[i];
    return r;
}
template <class T, int N> inline T dot(vec<T, N> a, typename msl_same<vec<T, N>>::type b) {
    T r = (T)(a.d[0] * b.d[0]);
    for (int i = 1; i < N; i++) r = (T)(r + a.d[i] * b.d[i]);
    return r;
}
template <class T, int N> inline T length_squared(vec<T, N> a) { return dot(a, a); }
template <class T, int N> inline T length(vec<T, N> a) { return sqrt(dot(a, a)); }
template <class T, int N> inline T distance(vec<T, N> a, vec<T, N> b) { return length(a - b); }
template <class T, int N> inline vec<T, N> normalize(vec<T, N> a) { return a * rsqrt(dot(a, a)); }
template <class T> inline vec<T, 3> cross(vec<T, 3> a, vec<T, 3> b) {
    return {(T)(a.y * b.z - a.z * b.y), (T)(a.z * b.x - a.x * b.z), (T)(a.x * b.y - a.y * b.x)};
}

// ---- Integer ----
template <class T> inline ulong msl_unsigned_bits(T v) {
    ulong u = 0;
    __builtin_memcpy(&u, &v, sizeof v);
    return u;
}
template <class T> inline enable_if_t<is_integral<T>::value, T> popcount(T v) { return (T)__builtin_popcountl(msl_unsigned_bits(v)); }
template <class T> inline enable_if_t<is_integral<T>::value, T> clz(T v) {
    ulong u = msl_unsigned_bits(v);
    return (T)(u ? __builtin_clzl(u) - (64 - 8 * (int)sizeof(T)) : 8 * (int)sizeof(T));
}
template <class T> inline enable_if_t<is_integral<T>::value, T> ctz(T v) {
    ulong u = msl_unsigned_bits(v);
    return (T)(u ? __builtin_ctzl(u) : 8 * (int)sizeof(T));
}
inline uint reverse_bits(uint v) { return __builtin_bitreverse32(v); }
inline int reverse_bits(int v) { return (int)__builtin_bitreverse32((uint)v); }
inline int mulhi(int a, int b) { return (int)(((long)a * b) >> 32); }
inline uint mulhi(uint a, uint b) { return (uint)(((ulong)a * b) >> 32); }
inline int mul24(int a, int b) { return a * b; }
inline uint mul24(uint a, uint b) { return a * b; }
inline uint rotate(uint v, uint n) {
    n &= 31;
    return n ? v << n | v >> (32 - n) : v;
}
template <class T> inline T extract_bits(T v, uint offset, uint bits) {
    if (!bits) return 0;
    T top = (T)(v << (8 * sizeof(T) - offset - bits));
    return (T)(top >> (8 * sizeof(T) - bits)); // of a signed type: with its sign
}
template <class T> inline T insert_bits(T base, T insert, uint offset, uint bits) {
    T mask = bits >= 8 * sizeof(T) ? ~(T)0 : (T)((((T)1 << bits) - 1) << offset);
    return (base & ~mask) | ((insert << offset) & mask);
}
MSL_OF_VECTORS_1(popcount) MSL_OF_VECTORS_1(clz) MSL_OF_VECTORS_1(ctz) MSL_OF_VECTORS_1(reverse_bits)

// ---- Packing ----
inline uint pack_float_to_snorm4x8(float4 v) {
    uint r = 0;
    for (int i = 0; i < 4; i++) r |= (uint)(uchar)(int)__builtin_rintf(clamp(v.d[i], -1.0f, 1.0f) * 127.0f) << (8 * i);
    return r;
}
inline uint pack_float_to_unorm4x8(float4 v) {
    uint r = 0;
    for (int i = 0; i < 4; i++) r |= (uint)__builtin_rintf(clamp(v.d[i], 0.0f, 1.0f) * 255.0f) << (8 * i);
    return r;
}
inline float4 unpack_snorm4x8_to_float(uint v) {
    float4 r;
    for (int i = 0; i < 4; i++) r.d[i] = max((float)(signed char)(v >> (8 * i)) / 127.0f, -1.0f);
    return r;
}
inline float4 unpack_unorm4x8_to_float(uint v) {
    float4 r;
    for (int i = 0; i < 4; i++) r.d[i] = (float)((v >> (8 * i)) & 255) / 255.0f;
    return r;
}

#define MSL_USING(f, expression) using metal::f;
#define MSL_VARIANT(name)                                         \
    namespace name {                                              \
    MSL_MATH_1(MSL_USING)                                         \
    MSL_MATH_2(MSL_USING)                                         \
    using metal::clamp;                                           \
    using metal::fma;                                             \
    using metal::isinf;                                           \
    using metal::isnan;                                           \
    using metal::max;                                             \
    using metal::min;                                             \
    using metal::sincos;                                          \
    }
MSL_VARIANT(precise)
MSL_VARIANT(fast)
} // namespace metal
