// What the generated source calls: function constants, threadgroup variables, and the list of
// kernels with their parameters. Types, sizes and const-ness come from the kernel's C++ type, so
// only names and attributes have to be found in the text.
#pragma once
#pragma clang system_header

#ifdef MSL_CHECK
extern "C" {
extern const int msl_built_with_checks;
__attribute__((visibility("default"), used)) const int msl_built_with_checks = 1;
}
#endif

// ---- Function constants, set when the object is loaded ----
#define is_function_constant_defined(x) (x##__fcdef)
template <class T> inline T msl_function_constant(unsigned index) {
    const void *p = msl_rt_fc(index, sizeof(T));
    T value = T();
    if (p) __builtin_memcpy((void *)&value, p, sizeof value);
    return value;
}
#define MSL_FC(T, name, index)                                                 \
    static const bool name##__fcdef = msl_rt_fc(index, sizeof(T)) != nullptr; \
    static const T name = msl_function_constant<T>(index);

// ---- Threadgroup variables: one block for all threads, told apart by the address of a key ----
template <int Id> struct msl_tgkey { static char key; };
template <int Id> char msl_tgkey<Id>::key;
#define MSL_TG(id, name)                                                                                                    \
    auto &name = *(msl_tgt_##name##_##id *)msl_rt_tgvar(&msl_tgkey<id>::key, sizeof(msl_tgt_##name##_##id),                \
                                                        alignof(msl_tgt_##name##_##id), #name)

// ---- Parameters ----
template <class T> struct msl_layout { static constexpr uint32_t size = sizeof(T), align = alignof(T); };
template <> struct msl_layout<void> { static constexpr uint32_t size = 1, align = 1; };
template <> struct msl_layout<const void> : msl_layout<void> {};

template <class T> struct msl_parameter { // by value: a field of the thread's ids, converted
    typedef msl_layout<T> layout;
    static constexpr int kind = MSL_ARG_VALUE, writable = 0;
    static T get(const msl_arg &arg, void *) { return (T) * (const uint32_t *)((const char *)msl_cur + arg.index); }
};
template <class T, int N> struct msl_parameter<metal::vec<T, N>> {
    typedef msl_layout<metal::vec<T, N>> layout;
    static constexpr int kind = MSL_ARG_VALUE, writable = 0;
    static metal::vec<T, N> get(const msl_arg &arg, void *) {
        const uint32_t *v = (const uint32_t *)((const char *)msl_cur + arg.index);
        metal::vec<T, N> r;
        for (int i = 0; i < N; i++) r.d[i] = (T)v[i];
        return r;
    }
};
template <class T> struct msl_parameter<const T> : msl_parameter<T> {};
template <class T> struct msl_parameter<T *> {
    typedef msl_layout<T> layout;
    static constexpr int kind = MSL_ARG_POINTER, writable = !__is_const(T);
    static T *get(const msl_arg &, void *p) { return (T *)p; }
};
template <class T> struct msl_parameter<T &> {
    typedef msl_layout<T> layout;
    static constexpr int kind = MSL_ARG_REFERENCE, writable = !__is_const(T);
    static T &get(const msl_arg &, void *p) { return *(T *)p; }
};

// ---- Kernels ----
template <int... I> struct msl_indices {};
template <int N, int... I> struct msl_indices_to : msl_indices_to<N - 1, N - 1, I...> {};
template <int... I> struct msl_indices_to<0, I...> { using type = msl_indices<I...>; };

template <class F, F f> struct msl_function;
template <class... A, void (*f)(A...)> struct msl_function<void (*)(A...), f> {
    static constexpr int count = sizeof...(A);
    template <int... I> static void call_with(const msl_kernel *k, void *const *p, msl_indices<I...>) { f(msl_parameter<A>::get(k->args[I], p[I])...); }
    static void call(const msl_kernel *k, void *const *p) { call_with(k, p, typename msl_indices_to<count>::type()); }
    static void describe(msl_arg *args) {
        const int kinds[] = {msl_parameter<A>::kind..., 0}, writable[] = {msl_parameter<A>::writable..., 0};
        const uint32_t sizes[] = {msl_parameter<A>::layout::size..., 0}, aligns[] = {msl_parameter<A>::layout::align..., 0};
        for (int i = 0; i < count; i++) {
            args[i].kind = kinds[i];
            args[i].writable = writable[i];
            args[i].size = sizes[i];
            args[i].align = aligns[i];
        }
    }
};
#define MSL_REGISTER(id, host_name, function_name, parameter_count, ...)                                 \
    static msl_arg msl_args_##id[] = {__VA_ARGS__{nullptr, nullptr, nullptr, 0, 0, 0, 0, 0}};           \
    static struct msl_registration_##id {                                                                \
        msl_kernel entry;                                                                                \
        msl_registration_##id() {                                                                        \
            /* From the global scope: a kernel may have the name of a function of namespace metal. */   \
            typedef msl_function<decltype(&::MSL_FN_##id), &::MSL_FN_##id> Function;                     \
            static_assert(Function::count == parameter_count, "the parameters were not all recognised"); \
            Function::describe(msl_args_##id);                                                           \
            entry = {host_name, function_name, parameter_count, msl_args_##id, Function::call};          \
            msl_rt_register(&entry);                                                                     \
        }                                                                                                \
    } msl_registered_##id;
