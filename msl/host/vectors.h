// vec, packed_vec and array. Classes, not the compiler's vector extension: there a cast between
// vector types reinterprets bits, a comparison gives -1 and float4(a, b, c, d) does not exist.
#pragma once
#pragma clang system_header

namespace metal {
template <class T, int N> struct vec;

#ifdef MSL_CHECK
#define MSL_COMPONENT(i, N) \
    if ((i) >= (N)) msl_rt_bad_component(i, N)
#else
#define MSL_COMPONENT(i, N) ((void)0)
#endif

#define MSL_ARITHMETIC(N, op)                                            \
    friend inline vec operator op(const vec &a, const vec &b) {          \
        vec r;                                                           \
        for (int i = 0; i < N; i++) r.d[i] = (T)(a.d[i] op b.d[i]);      \
        return r;                                                        \
    }                                                                    \
    vec &operator op##=(const vec &b) {                                  \
        for (int i = 0; i < N; i++) d[i] = (T)(d[i] op b.d[i]);          \
        return *this;                                                    \
    }
#define MSL_COMPARISON(N, op)                                            \
    friend inline vec<bool, N> operator op(const vec &a, const vec &b) { \
        vec<bool, N> r;                                                  \
        for (int i = 0; i < N; i++) r.d[i] = a.d[i] op b.d[i];           \
        return r;                                                        \
    }
// The compiler checks the alignment of a reference that it binds, and of nothing in a trivial copy.
// Copies that are functions would keep a vector out of unions, so a file with a union has none.
#if defined(MSL_CHECK) && !defined(MSL_HAS_UNION)
#define MSL_COPIES(N)                                                                                           \
    constexpr vec(const vec &o) : d{} { *this = o; }                                                            \
    constexpr vec &operator=(const vec &o) {                                                                    \
        if (__builtin_is_constant_evaluated()) {                                                                \
            for (int i = 0; i < N; i++) d[i] = o.d[i];                                                          \
        } else {                                                                                                \
            __builtin_memcpy((void *)this, &o, sizeof o);                                                       \
        }                                                                                                       \
        return *this;                                                                                           \
    }
#else
#define MSL_COPIES(N)
#endif

#define MSL_VECTOR_BODY(N)                                                                                      \
    typedef T element_type;                                                                                     \
    vec() = default;                                                                                            \
    MSL_COPIES(N)                                                                                               \
    template <class U> explicit constexpr vec(const vec<U, N> &o) {                                             \
        for (int i = 0; i < N; i++) d[i] = (T)o.d[i];                                                           \
    }                                                                                                           \
    T &operator[](size_t i) {                                                                                   \
        MSL_COMPONENT(i, N);                                                                                    \
        return d[i];                                                                                            \
    }                                                                                                           \
    const T &operator[](size_t i) const {                                                                       \
        MSL_COMPONENT(i, N);                                                                                    \
        return d[i];                                                                                            \
    }                                                                                                           \
    MSL_ARITHMETIC(N, +) MSL_ARITHMETIC(N, -) MSL_ARITHMETIC(N, *) MSL_ARITHMETIC(N, /) MSL_ARITHMETIC(N, %)    \
    MSL_ARITHMETIC(N, &) MSL_ARITHMETIC(N, |) MSL_ARITHMETIC(N, ^) MSL_ARITHMETIC(N, <<) MSL_ARITHMETIC(N, >>)  \
    MSL_COMPARISON(N, <) MSL_COMPARISON(N, >) MSL_COMPARISON(N, <=) MSL_COMPARISON(N, >=)                       \
    MSL_COMPARISON(N, ==) MSL_COMPARISON(N, !=) MSL_COMPARISON(N, &&) MSL_COMPARISON(N, ||)                     \
    vec operator+() const { return *this; }                                                                     \
    vec operator-() const {                                                                                     \
        vec r;                                                                                                  \
        for (int i = 0; i < N; i++) r.d[i] = (T)-d[i];                                                          \
        return r;                                                                                               \
    }                                                                                                           \
    vec operator~() const {                                                                                     \
        vec r;                                                                                                  \
        for (int i = 0; i < N; i++) r.d[i] = (T)~d[i];                                                          \
        return r;                                                                                               \
    }                                                                                                           \
    vec<bool, N> operator!() const {                                                                            \
        vec<bool, N> r;                                                                                         \
        for (int i = 0; i < N; i++) r.d[i] = !d[i];                                                             \
        return r;                                                                                               \
    }                                                                                                           \
    vec &operator++() {                                                                                         \
        for (int i = 0; i < N; i++) ++d[i];                                                                     \
        return *this;                                                                                           \
    }                                                                                                           \
    vec &operator--() {                                                                                         \
        for (int i = 0; i < N; i++) --d[i];                                                                     \
        return *this;                                                                                           \
    }

// Swizzles. The generated source defines MSL_SWZ_V2, _V3 and _V4 as those that the kernel uses:
// all of them would multiply the compile time.
#define MSL_SW2(n, a, b)                                        \
    __declspec(property(get = g_##n, put = p_##n)) vec<T, 2> n; \
    vec<T, 2> g_##n() const { return {d[a], d[b]}; }            \
    void p_##n(vec<T, 2> v) { d[a] = v.d[0], d[b] = v.d[1]; }
#define MSL_SW3(n, a, b, c)                                     \
    __declspec(property(get = g_##n, put = p_##n)) vec<T, 3> n; \
    vec<T, 3> g_##n() const { return {d[a], d[b], d[c]}; }      \
    void p_##n(vec<T, 3> v) { d[a] = v.d[0], d[b] = v.d[1], d[c] = v.d[2]; }
#define MSL_SW4(n, a, b, c, e)                                   \
    __declspec(property(get = g_##n, put = p_##n)) vec<T, 4> n;  \
    vec<T, 4> g_##n() const { return {d[a], d[b], d[c], d[e]}; } \
    void p_##n(vec<T, 4> v) { d[a] = v.d[0], d[b] = v.d[1], d[c] = v.d[2], d[e] = v.d[3]; }
#ifndef MSL_SWZ_V2
#define MSL_SWZ_V2
#define MSL_SWZ_V3
#define MSL_SWZ_V4
#endif

template <class T> struct alignas(sizeof(T) * 2) vec<T, 2> {
    union {
        T d[2];
        struct { T x, y; };
        struct { T r, g; };
    };
    constexpr vec(T s) : d{s, s} {}
    constexpr vec(T a, T b) : d{a, b} {}
    MSL_VECTOR_BODY(2)
    MSL_SWZ_V2
};
template <class T> struct alignas(sizeof(T) * 4) vec<T, 3> { // as large as four elements
    union {
        T d[4];
        struct { T x, y, z; };
        struct { T r, g, b; };
    };
    constexpr vec(T s) : d{s, s, s} {}
    constexpr vec(T a, T b, T c) : d{a, b, c} {}
    constexpr vec(vec<T, 2> a, T c) : d{a.d[0], a.d[1], c} {}
    constexpr vec(T a, vec<T, 2> b) : d{a, b.d[0], b.d[1]} {}
    MSL_VECTOR_BODY(3)
    MSL_SWZ_V3
};
template <class T> struct alignas(sizeof(T) * 4) vec<T, 4> {
    union {
        T d[4];
        struct { T x, y, z, w; };
        struct { T r, g, b, a; };
    };
    constexpr vec(T s) : d{s, s, s, s} {}
    constexpr vec(T a, T b, T c, T e) : d{a, b, c, e} {}
    constexpr vec(vec<T, 2> a, T c, T e) : d{a.d[0], a.d[1], c, e} {}
    constexpr vec(T a, vec<T, 2> b, T e) : d{a, b.d[0], b.d[1], e} {}
    constexpr vec(T a, T b, vec<T, 2> c) : d{a, b, c.d[0], c.d[1]} {}
    constexpr vec(vec<T, 2> a, vec<T, 2> b) : d{a.d[0], a.d[1], b.d[0], b.d[1]} {}
    constexpr vec(vec<T, 3> a, T e) : d{a.d[0], a.d[1], a.d[2], e} {}
    constexpr vec(T a, vec<T, 3> b) : d{a, b.d[0], b.d[1], b.d[2]} {}
    MSL_VECTOR_BODY(4)
    MSL_SWZ_V4
};

// Vectors aligned as their elements.
template <class T, int N> struct packed_vec {
    T d[N];
    packed_vec() = default;
    constexpr packed_vec(vec<T, N> v) {
        for (int i = 0; i < N; i++) d[i] = v.d[i];
    }
    template <class... A, class = enable_if_t<sizeof...(A) == N>> packed_vec(A... a) : d{(T)a...} {}
    constexpr operator vec<T, N>() const {
        vec<T, N> r{};
        for (int i = 0; i < N; i++) r.d[i] = d[i];
        return r;
    }
    T &operator[](size_t i) {
        MSL_COMPONENT(i, N);
        return d[i];
    }
    const T &operator[](size_t i) const {
        MSL_COMPONENT(i, N);
        return d[i];
    }
#define MSL_FIELD(n, i)                                 \
    __declspec(property(get = g_##n, put = p_##n)) T n; \
    T g_##n() const { return d[i]; }                    \
    void p_##n(T v) { d[i] = v; }
    MSL_FIELD(x, 0) MSL_FIELD(y, 1) MSL_FIELD(z, 2) MSL_FIELD(w, 3)
#undef MSL_FIELD
};

template <class T, size_t N> struct array {
    T _d[N];
    T &operator[](size_t i) { return _d[i]; }
    const T &operator[](size_t i) const { return _d[i]; }
    static constexpr size_t size() { return N; }
    T *data() { return _d; }
    const T *data() const { return _d; }
};

template <class T> struct vec_elements : integral_constant<size_t, 1> {};
template <class T, int N> struct vec_elements<vec<T, N>> : integral_constant<size_t, N> {};
} // namespace metal

#define MSL_VECTOR_NAMES(T)               \
    typedef metal::vec<T, 2> T##2;        \
    typedef metal::vec<T, 3> T##3;        \
    typedef metal::vec<T, 4> T##4;        \
    typedef metal::packed_vec<T, 2> packed_##T##2; \
    typedef metal::packed_vec<T, 3> packed_##T##3; \
    typedef metal::packed_vec<T, 4> packed_##T##4; \
    namespace metal {                     \
    using ::T##2;                         \
    using ::T##3;                         \
    using ::T##4;                         \
    using ::packed_##T##2;                \
    using ::packed_##T##3;                \
    using ::packed_##T##4;                \
    }
MSL_VECTOR_NAMES(bool)
MSL_VECTOR_NAMES(char)
MSL_VECTOR_NAMES(uchar)
MSL_VECTOR_NAMES(short)
MSL_VECTOR_NAMES(ushort)
MSL_VECTOR_NAMES(int)
MSL_VECTOR_NAMES(uint)
MSL_VECTOR_NAMES(long)
MSL_VECTOR_NAMES(ulong)
MSL_VECTOR_NAMES(half)
MSL_VECTOR_NAMES(float)
MSL_VECTOR_NAMES(bfloat)
