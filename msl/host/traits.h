// Type traits of <metal_type_traits>, numeric limits and as_type.
#pragma once
#pragma clang system_header

namespace metal {
template <class T, T v> struct integral_constant {
    static constexpr T value = v;
    using value_type = T;
    using type = integral_constant;
    constexpr operator T() const { return v; }
    constexpr T operator()() const { return v; }
};
template <bool B> using bool_constant = integral_constant<bool, B>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;

template <class A, class B> struct is_same : false_type {};
template <class A> struct is_same<A, A> : true_type {};
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
template <bool B, class T, class F> struct conditional { using type = T; };
template <class T, class F> struct conditional<false, T, F> { using type = F; };
template <bool B, class T, class F> using conditional_t = typename conditional<B, T, F>::type;
template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { using type = T; };
template <bool B, class T = void> using enable_if_t = typename enable_if<B, T>::type;

template <class T> struct remove_const { using type = T; };
template <class T> struct remove_const<const T> { using type = T; };
template <class T> using remove_const_t = typename remove_const<T>::type;
template <class T> struct remove_volatile { using type = T; };
template <class T> struct remove_volatile<volatile T> { using type = T; };
template <class T> struct remove_cv { using type = typename remove_const<typename remove_volatile<T>::type>::type; };
template <class T> using remove_cv_t = typename remove_cv<T>::type;
template <class T> struct remove_reference { using type = T; };
template <class T> struct remove_reference<T &> { using type = T; };
template <class T> struct remove_reference<T &&> { using type = T; };
template <class T> using remove_reference_t = typename remove_reference<T>::type;
template <class T> struct remove_pointer { using type = T; };
template <class T> struct remove_pointer<T *> { using type = T; };
template <class T> using remove_pointer_t = typename remove_pointer<T>::type;

template <class T> struct is_integral : bool_constant<__is_integral(T)> {};
template <class T> constexpr bool is_integral_v = is_integral<T>::value;
template <class T>
struct is_floating_point
    : bool_constant<__is_floating_point(T) || is_same<remove_cv_t<T>, half>::value || is_same<remove_cv_t<T>, bfloat>::value> {};
template <class T> constexpr bool is_floating_point_v = is_floating_point<T>::value;
template <class T> struct is_arithmetic : bool_constant<is_integral<T>::value || is_floating_point<T>::value> {};
template <class T> struct is_scalar : bool_constant<is_arithmetic<T>::value> {};
template <class T> struct is_signed : bool_constant<(T(-1) < T(0))> {};
template <class T> struct is_unsigned : bool_constant<!(T(-1) < T(0))> {};
template <class T> struct is_empty : bool_constant<__is_empty(T)> {};
template <class A, class B> struct is_convertible : bool_constant<__is_convertible_to(A, B)> {};
template <class A, class B> constexpr bool is_convertible_v = is_convertible<A, B>::value;
template <class T> T &&declval();

// Keeps an argument out of deduction, so that a scalar converts to the vector of another one.
template <class T> struct msl_same { using type = T; };

template <class T, class U> constexpr T msl_bits(const U &u) {
    static_assert(sizeof(T) == sizeof(U), "as_type needs types of one size");
    T t;
    __builtin_memcpy((void *)&t, &u, sizeof t);
    return t;
}

template <class T> struct numeric_limits;
#define MSL_LIMITS(T, min_, lowest_, max_, epsilon_, infinity_, digits_)                                       \
    template <> struct numeric_limits<T> {                                                                     \
        static constexpr bool is_specialized = true;                                                           \
        static constexpr int digits = digits_;                                                                 \
        static constexpr T min() { return min_; }                                                              \
        static constexpr T lowest() { return lowest_; }                                                        \
        static constexpr T max() { return max_; }                                                              \
        static constexpr T epsilon() { return epsilon_; }                                                      \
        static constexpr T infinity() { return infinity_; }                                                    \
        static constexpr T quiet_NaN() { return (T)(is_floating_point<T>::value ? __builtin_nanf("") : 0.0f); } \
    };
#define MSL_INT_LIMITS(T, min, max, digits) MSL_LIMITS(T, min, min, max, 0, 0, digits)
MSL_LIMITS(float, FLT_MIN, -FLT_MAX, FLT_MAX, FLT_EPSILON, __builtin_inff(), 24)
MSL_LIMITS(half, HALF_MIN, (half)-65504.0f, HALF_MAX, HALF_EPSILON, (half)__builtin_inff(), 11)
MSL_LIMITS(bfloat, (bfloat)FLT_MIN, (bfloat)-3.38953139e38f, (bfloat)3.38953139e38f, (bfloat)0x1p-7f, (bfloat)__builtin_inff(), 8)
MSL_INT_LIMITS(char, SCHAR_MIN, SCHAR_MAX, 7)
MSL_INT_LIMITS(signed char, SCHAR_MIN, SCHAR_MAX, 7)
MSL_INT_LIMITS(uchar, 0, UCHAR_MAX, 8)
MSL_INT_LIMITS(short, SHRT_MIN, SHRT_MAX, 15)
MSL_INT_LIMITS(ushort, 0, USHRT_MAX, 16)
MSL_INT_LIMITS(int, INT_MIN, INT_MAX, 31)
MSL_INT_LIMITS(uint, 0, UINT_MAX, 32)
MSL_INT_LIMITS(long, LONG_MIN, LONG_MAX, 63)
MSL_INT_LIMITS(ulong, 0, ULONG_MAX, 64)
} // namespace metal

template <class T, class U> inline T as_type(const U &u) { return metal::msl_bits<T>(u); }
namespace metal {
using ::as_type;
}
