// matrix and simdgroup_matrix.
#pragma once
#pragma clang system_header

namespace metal {
template <class T, int C, int R> struct matrix {
    vec<T, R> columns[C];
    matrix() = default;
    explicit matrix(T diagonal) {
        for (int c = 0; c < C; c++) {
            for (int r = 0; r < R; r++) columns[c].d[r] = c == r ? diagonal : (T)0;
        }
    }
    template <class... A, class = enable_if_t<sizeof...(A) == C>> matrix(A... a) : columns{vec<T, R>(a)...} {}
    template <class U> explicit matrix(const matrix<U, C, R> &o) {
        for (int c = 0; c < C; c++) columns[c] = vec<T, R>(o.columns[c]);
    }
    vec<T, R> &operator[](size_t i) { return columns[i]; }
    const vec<T, R> &operator[](size_t i) const { return columns[i]; }
    friend vec<T, R> operator*(const matrix &m, const vec<T, C> &v) {
        vec<T, R> r((T)0);
        for (int c = 0; c < C; c++) r += m.columns[c] * vec<T, R>(v.d[c]);
        return r;
    }
    friend vec<T, C> operator*(const vec<T, R> &v, const matrix &m) {
        vec<T, C> r;
        for (int c = 0; c < C; c++) r.d[c] = dot(v, m.columns[c]);
        return r;
    }
    friend matrix operator*(const matrix &m, T s) {
        matrix r;
        for (int c = 0; c < C; c++) r.columns[c] = m.columns[c] * s;
        return r;
    }
    friend matrix operator+(const matrix &a, const matrix &b) {
        matrix r;
        for (int c = 0; c < C; c++) r.columns[c] = a.columns[c] + b.columns[c];
        return r;
    }
};
#define MSL_MATRIX_NAMES(T)                                                                    \
    typedef matrix<T, 2, 2> T##2x2;                                                            \
    typedef matrix<T, 2, 3> T##2x3;                                                            \
    typedef matrix<T, 2, 4> T##2x4;                                                            \
    typedef matrix<T, 3, 2> T##3x2;                                                            \
    typedef matrix<T, 3, 3> T##3x3;                                                            \
    typedef matrix<T, 3, 4> T##3x4;                                                            \
    typedef matrix<T, 4, 2> T##4x2;                                                            \
    typedef matrix<T, 4, 3> T##4x3;                                                            \
    typedef matrix<T, 4, 4> T##4x4;
MSL_MATRIX_NAMES(float)
MSL_MATRIX_NAMES(half)

// 8x8, two elements a lane: neighbours in a row. Which lane holds which is not specified; this is
// the layout that public kernels assume of the hardware.
template <class T, int R = 8, int C = 8> struct simdgroup_matrix {
    static_assert(R == 8 && C == 8, "only 8x8 exists");
    vec<T, 2> e;
    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T diagonal) {
        uint r, c;
        position(r, c);
        e = {r == c ? diagonal : (T)0, r == c + 1 ? diagonal : (T)0};
    }
    static void position(uint &row, uint &column) {
        uint lane = msl_cur->lane;
        row = (lane / 4 & 4) + lane / 2 % 4;
        column = (lane / 4 & 2) * 2 + lane % 2 * 2;
    }
    static uint lane_of(uint row, uint column) { return (row & 4) << 2 | (column & 4) << 1 | (row & 3) << 1 | (column >> 1 & 1); }
    vec<T, 2> &thread_elements() { return e; }
    const vec<T, 2> &thread_elements() const { return e; }
};
typedef simdgroup_matrix<float> simdgroup_float8x8;
typedef simdgroup_matrix<half> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat> simdgroup_bfloat8x8;

template <class T, int R = 8, int C = 8, class V> inline simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(V v) {
    simdgroup_matrix<T, R, C> m;
    m.e = vec<T, 2>((T)v);
    return m;
}
template <class T> inline ulong msl_matrix_offset(uint k, ulong stride, ulong2 origin, bool transpose) {
    uint r, c;
    simdgroup_matrix<T>::position(r, c);
    return (origin.y + (transpose ? c + k : r)) * stride + origin.x + (transpose ? r : c + k);
}
template <class T, class S>
inline void simdgroup_load(simdgroup_matrix<T> &m, const S *p, ulong stride = 8, ulong2 origin = ulong2(0ul), bool transpose = false) {
    for (uint k = 0; k < 2; k++) m.e.d[k] = (T)p[msl_matrix_offset<T>(k, stride, origin, transpose)];
}
template <class T, class S>
inline void simdgroup_store(simdgroup_matrix<T> m, S *p, ulong stride = 8, ulong2 origin = ulong2(0ul), bool transpose = false) {
    for (uint k = 0; k < 2; k++) p[msl_matrix_offset<T>(k, stride, origin, transpose)] = (S)m.e.d[k];
}
template <class A, class B> struct msl_matrix_pair {
    A a[2];
    B b[2];
};
template <class D, class A, class B, class C>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<D> &d, const simdgroup_matrix<A> &a, const simdgroup_matrix<B> &b,
                                          const simdgroup_matrix<C> &c, MSL_SITE) {
    typedef msl_matrix_pair<A, B> Pair;
    msl_lanes<Pair> lanes(Pair{{a.e.d[0], a.e.d[1]}, {b.e.d[0], b.e.d[1]}}, MSL_OP_MATRIX, site);
    uint row, column;
    d.position(row, column);
    float sum[2] = {(float)c.e.d[0], (float)c.e.d[1]};
    for (uint k = 0; k < 8; k++) {
        float left = (float)lanes.get(d.lane_of(row, k), "simdgroup_multiply_accumulate", site).a[k & 1];
        Pair right = lanes.get(d.lane_of(k, column), "simdgroup_multiply_accumulate", site);
        sum[0] += left * (float)right.b[0];
        sum[1] += left * (float)right.b[1];
    }
    d.e = {(D)sum[0], (D)sum[1]};
}
template <class D, class A, class B>
inline void simdgroup_multiply(simdgroup_matrix<D> &d, const simdgroup_matrix<A> &a, const simdgroup_matrix<B> &b, MSL_SITE) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D>(0), site);
}
} // namespace metal
