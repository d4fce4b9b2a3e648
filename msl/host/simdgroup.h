// Barriers, simdgroup and quadgroup operations. Every one brings the lane's value to the host and
// waits until all active lanes have come; each lane then picks its result from the values.
#pragma once
#pragma clang system_header

namespace metal {
enum class mem_flags : uint {
    mem_none = 0,
    mem_device = MSL_FENCE_DEVICE,
    mem_threadgroup = MSL_FENCE_THREADGROUP,
    mem_texture = 4,
    mem_threadgroup_imageblock = 8,
    mem_object_data = 16,
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((uint)a | (uint)b); }
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };

#define MSL_SITE msl_site site = msl_site::here()

inline void threadgroup_barrier(mem_flags flags, MSL_SITE) { msl_rt_barrier(MSL_OP_THREADGROUP_BARRIER, (uint)flags, site); }
inline void simdgroup_barrier(mem_flags flags, MSL_SITE) { msl_rt_barrier(MSL_OP_SIMDGROUP_BARRIER, (uint)flags, site); }

// The values of the active lanes.
template <class T> struct msl_lanes {
    msl_exchange *exchange;
    uint active;
    msl_lanes(const T &mine, msl_op op, msl_site site) {
        static_assert(sizeof(T) <= 64, "too large for a simdgroup operation");
        exchange = msl_rt_simd(&mine, sizeof(T), op, site, &active);
    }
    T operator[](uint lane) const {
        T t;
        __builtin_memcpy((void *)&t, exchange->slot[lane % MSL_LANES], sizeof t);
        return t;
    }
    bool has(uint lane) const { return lane < MSL_LANES && (active >> lane & 1); }
    // A lane that must be active. Otherwise the value is undefined: all ones, a NaN for floats.
    T get(uint lane, const char *operation, msl_site site) const {
        if (has(lane)) return (*this)[lane];
        msl_rt_inactive_lane(operation, lane, site);
        T t;
        __builtin_memset((void *)&t, 0xff, sizeof t);
        return t;
    }
};

// ---- Reductions: pairwise over distances 16 .. 1, as on hardware by shuffles ----
template <class T, class F> inline T msl_reduce(const T &mine, msl_op op, msl_site site, F combine) {
    msl_lanes<T> lanes(mine, op, site);
    T *result = (T *)lanes.exchange->result;
    if (lanes.exchange->reduced) return *result; // an earlier lane has done it
    lanes.exchange->reduced = 1;
    if (lanes.active == ~0u) {
        T a[MSL_LANES];
        for (uint i = 0; i < MSL_LANES; i++) a[i] = lanes[i];
        for (uint distance = MSL_LANES / 2; distance; distance >>= 1) {
            for (uint i = 0; i < distance; i++) a[i] = combine(a[i], a[i + distance]);
        }
        return *result = a[0];
    }
    uint first = (uint)__builtin_ctz(lanes.active);
    T sum = lanes[first];
    for (uint i = first + 1; i < MSL_LANES; i++) {
        if (lanes.has(i)) sum = combine(sum, lanes[i]);
    }
    return *result = sum;
}
#define MSL_REDUCTION(f, op, expression) \
    template <class T> inline T f(T v, MSL_SITE) { return msl_reduce(v, op, site, [](T a, T b) -> T { return (T)(expression); }); }
MSL_REDUCTION(simd_sum, MSL_OP_SUM, a + b)
MSL_REDUCTION(simd_product, MSL_OP_PRODUCT, a *b)
MSL_REDUCTION(simd_max, MSL_OP_MAX, max(a, b))
MSL_REDUCTION(simd_min, MSL_OP_MIN, min(a, b))
MSL_REDUCTION(simd_and, MSL_OP_AND, a &b)
MSL_REDUCTION(simd_or, MSL_OP_OR, a | b)
MSL_REDUCTION(simd_xor, MSL_OP_XOR, a ^ b)

// ---- Prefix sums ----
#define MSL_SCAN(f, start, end, op)                               \
    template <class T> inline T f(T v, MSL_SITE) {                \
        msl_lanes<T> lanes(v, MSL_OP_SCAN, site);                 \
        T r = start;                                              \
        for (uint i = 0; i < end; i++) {                          \
            if (lanes.has(i)) r = (T)(r op lanes[i]);             \
        }                                                         \
        return r;                                                 \
    }
MSL_SCAN(simd_prefix_inclusive_sum, 0, msl_cur->lane + 1, +)
MSL_SCAN(simd_prefix_exclusive_sum, 0, msl_cur->lane, +)
MSL_SCAN(simd_prefix_inclusive_product, 1, msl_cur->lane + 1, *)
MSL_SCAN(simd_prefix_exclusive_product, 1, msl_cur->lane, *)

// ---- Shuffles ----
template <class T> inline T simd_shuffle(T v, ushort lane, MSL_SITE) { return msl_lanes<T>(v, MSL_OP_SHUFFLE, site).get(lane, "simd_shuffle", site); }
template <class T> inline T simd_shuffle_xor(T v, ushort mask, MSL_SITE) {
    return msl_lanes<T>(v, MSL_OP_SHUFFLE, site).get(msl_cur->lane ^ mask, "simd_shuffle_xor", site);
}
// Past the ends, up and down leave the lane its own value.
template <class T> inline T simd_shuffle_up(T v, ushort by, MSL_SITE) {
    msl_lanes<T> lanes(v, MSL_OP_SHUFFLE, site);
    return msl_cur->lane < by ? v : lanes.get(msl_cur->lane - by, "simd_shuffle_up", site);
}
template <class T> inline T simd_shuffle_down(T v, ushort by, MSL_SITE) {
    msl_lanes<T> lanes(v, MSL_OP_SHUFFLE, site);
    return msl_cur->lane + by >= MSL_LANES ? v : lanes.get(msl_cur->lane + by, "simd_shuffle_down", site);
}
template <class T> inline T simd_shuffle_rotate_up(T v, ushort by, MSL_SITE) {
    return msl_lanes<T>(v, MSL_OP_SHUFFLE, site).get((msl_cur->lane - by) % MSL_LANES, "simd_shuffle_rotate_up", site);
}
template <class T> inline T simd_shuffle_rotate_down(T v, ushort by, MSL_SITE) {
    return msl_lanes<T>(v, MSL_OP_SHUFFLE, site).get((msl_cur->lane + by) % MSL_LANES, "simd_shuffle_rotate_down", site);
}
template <class T> inline T simd_shuffle_and_fill_up(T v, T fill, ushort by, MSL_SITE) {
    msl_lanes<T> lanes(v, MSL_OP_SHUFFLE, site);
    return msl_cur->lane < by ? fill : lanes.get(msl_cur->lane - by, "simd_shuffle_and_fill_up", site);
}
template <class T> inline T simd_shuffle_and_fill_down(T v, T fill, ushort by, MSL_SITE) {
    msl_lanes<T> lanes(v, MSL_OP_SHUFFLE, site);
    return msl_cur->lane + by >= MSL_LANES ? fill : lanes.get(msl_cur->lane + by, "simd_shuffle_and_fill_down", site);
}
template <class T> inline T simd_broadcast(T v, ushort lane, MSL_SITE) { return msl_lanes<T>(v, MSL_OP_BROADCAST, site).get(lane, "simd_broadcast", site); }
template <class T> inline T simd_broadcast_first(T v, MSL_SITE) {
    msl_lanes<T> lanes(v, MSL_OP_BROADCAST, site);
    return lanes[(uint)__builtin_ctz(lanes.active)];
}

// ---- Votes ----
struct simd_vote {
    typedef ulong vote_t;
    vote_t v;
    explicit simd_vote(vote_t x = 0) : v(x) {}
    explicit operator vote_t() const { return v; }
    bool all() const { return (uint)v == ~0u; }
    bool any() const { return v != 0; }
};
inline uint msl_ballot(bool b, uint &active, msl_site site) {
    msl_lanes<bool> lanes(b, MSL_OP_BALLOT, site);
    uint votes = 0;
    for (uint i = 0; i < MSL_LANES; i++) {
        if (lanes.has(i) && lanes[i]) votes |= 1u << i;
    }
    active = lanes.active;
    return votes;
}
inline simd_vote simd_ballot(bool b, MSL_SITE) {
    uint active;
    return simd_vote(msl_ballot(b, active, site));
}
inline simd_vote simd_active_threads_mask(MSL_SITE) { return simd_ballot(true, site); }
inline bool simd_any(bool b, MSL_SITE) {
    uint active;
    return msl_ballot(b, active, site) != 0;
}
inline bool simd_all(bool b, MSL_SITE) {
    uint active, votes = msl_ballot(b, active, site);
    return votes == active;
}
inline bool simd_is_first(MSL_SITE) {
    uint active;
    return (uint)__builtin_ctz(msl_ballot(true, active, site)) == msl_cur->lane;
}

// ---- Quadgroups: four neighbouring lanes, which meet with their whole simdgroup here ----
template <class T> inline T quad_shuffle(T v, ushort lane, MSL_SITE) {
    return msl_lanes<T>(v, MSL_OP_QUAD, site).get((msl_cur->lane & ~3u) + lane % 4u, "quad_shuffle", site);
}
template <class T> inline T quad_broadcast(T v, ushort lane, MSL_SITE) { return quad_shuffle(v, lane, site); }
template <class T> inline T quad_shuffle_xor(T v, ushort mask, MSL_SITE) {
    return msl_lanes<T>(v, MSL_OP_QUAD, site).get(msl_cur->lane ^ (mask & 3u), "quad_shuffle_xor", site);
}
template <class T> inline T quad_sum(T v, MSL_SITE) {
    msl_lanes<T> lanes(v, MSL_OP_QUAD, site);
    uint q = msl_cur->lane & ~3u;
    return (T)((lanes[q] + lanes[q + 1]) + (lanes[q + 2] + lanes[q + 3]));
}
template <class T> inline T quad_max(T v, MSL_SITE) {
    msl_lanes<T> lanes(v, MSL_OP_QUAD, site);
    uint q = msl_cur->lane & ~3u;
    return max(max(lanes[q], lanes[q + 1]), max(lanes[q + 2], lanes[q + 3]));
}
template <class T> inline T quad_min(T v, MSL_SITE) {
    msl_lanes<T> lanes(v, MSL_OP_QUAD, site);
    uint q = msl_cur->lane & ~3u;
    return min(min(lanes[q], lanes[q + 1]), min(lanes[q + 2], lanes[q + 3]));
}
} // namespace metal
