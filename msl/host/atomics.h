// Atomics. One OS thread runs all fibres and switches only where a fibre asks for it, so plain
// operations are atomic. They are left out of the instrumentation and tell the checker themselves.
#pragma once
#pragma clang system_header

namespace metal {
enum memory_order { memory_order_relaxed, memory_order_acquire, memory_order_release, memory_order_acq_rel, memory_order_seq_cst };

#ifdef MSL_CHECK
#define MSL_ATOMIC_ACCESS(p, access) msl_ck_atomic(p, sizeof(*p), access)
// Inlined, so that the address the checker sees is one of the kernel's own lines.
#define MSL_ATOMIC __attribute__((always_inline)) inline
#else
#define MSL_ATOMIC_ACCESS(p, access) ((void)0)
#define MSL_ATOMIC inline
#endif

template <class T> struct _atomic { T v; };
template <class T> using atomic = _atomic<T>;
typedef _atomic<int> atomic_int;
typedef _atomic<uint> atomic_uint;
typedef _atomic<bool> atomic_bool;
typedef _atomic<float> atomic_float;
typedef _atomic<ulong> atomic_ulong;

// The value itself is read and written here, out of line and without instrumentation.
template <class T> __attribute__((noinline, no_sanitize("thread"))) T msl_atomic_get(const volatile _atomic<T> *p) { return p->v; }
template <class T> __attribute__((noinline, no_sanitize("thread"))) void msl_atomic_set(volatile _atomic<T> *p, T x) { p->v = x; }

template <class T> MSL_ATOMIC T atomic_load_explicit(const volatile _atomic<T> *p, memory_order) {
    MSL_ATOMIC_ACCESS(p, MSL_ACCESS_READ);
    return msl_atomic_get(p);
}
template <class T> MSL_ATOMIC void atomic_store_explicit(volatile _atomic<T> *p, typename msl_same<T>::type x, memory_order) {
    MSL_ATOMIC_ACCESS(p, MSL_ACCESS_WRITE);
    msl_atomic_set(p, x);
}
#define MSL_READ_MODIFY_WRITE(f, expression)                                                          \
    template <class T> MSL_ATOMIC T f(volatile _atomic<T> *p, typename msl_same<T>::type x, memory_order) { \
        MSL_ATOMIC_ACCESS(p, MSL_ACCESS_READ | MSL_ACCESS_WRITE);                                     \
        T old = msl_atomic_get(p);                                                                    \
        msl_atomic_set(p, (T)(expression));                                                           \
        return old;                                                                                   \
    }
MSL_READ_MODIFY_WRITE(atomic_exchange_explicit, x)
MSL_READ_MODIFY_WRITE(atomic_fetch_add_explicit, old + x)
MSL_READ_MODIFY_WRITE(atomic_fetch_sub_explicit, old - x)
MSL_READ_MODIFY_WRITE(atomic_fetch_or_explicit, old | x)
MSL_READ_MODIFY_WRITE(atomic_fetch_and_explicit, old &x)
MSL_READ_MODIFY_WRITE(atomic_fetch_xor_explicit, old ^ x)
MSL_READ_MODIFY_WRITE(atomic_fetch_max_explicit, old < x ? x : old)
MSL_READ_MODIFY_WRITE(atomic_fetch_min_explicit, x < old ? x : old)
template <class T>
MSL_ATOMIC bool atomic_compare_exchange_weak_explicit(volatile _atomic<T> *p, T *expected, typename msl_same<T>::type x, memory_order, memory_order) {
    MSL_ATOMIC_ACCESS(p, MSL_ACCESS_READ | MSL_ACCESS_WRITE);
    T old = msl_atomic_get(p);
    if (old == *expected) {
        msl_atomic_set(p, x);
        return true;
    }
    *expected = old;
    return false;
}
// Only a fence of device memory and scope orders what threadgroups do.
inline void atomic_thread_fence(mem_flags flags, memory_order order, thread_scope scope = thread_scope_device) {
#ifdef MSL_CHECK
    bool acquires = order == memory_order_acquire || order == memory_order_acq_rel || order == memory_order_seq_cst;
    bool releases = order == memory_order_release || order == memory_order_acq_rel || order == memory_order_seq_cst;
    if (((uint)flags & MSL_FENCE_DEVICE) && scope == thread_scope_device) msl_ck_fence((acquires ? MSL_ACQUIRE : 0) | (releases ? MSL_RELEASE : 0));
#else
    (void)flags, (void)order, (void)scope;
#endif
}
} // namespace metal
