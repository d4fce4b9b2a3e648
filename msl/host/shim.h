// The part of the Metal standard library that compute kernels use, for the host compiler. A
// generated source includes it first and then holds the kernel with its attributes taken out and
// recorded at the end (registration.h). Clang only: swizzles are properties (-fdeclspec).
//
// Only what the Metal specification lists belongs here: whatever else compiles here would fail in
// a real compiler, and nothing would tell.
#pragma once
#pragma clang system_header
#include "abi.h"
#include <float.h>
#include <limits.h>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;

// Truncated f32, rounded to nearest even. A class, because the compiler's own type refuses
// conversions that Metal has.
struct bfloat {
    uint16_t bits;
    bfloat() = default;
    constexpr bfloat(float f) : bits(0) {
        uint32_t u = __builtin_bit_cast(uint32_t, f);
        bool nan = (u & 0x7fffffff) > 0x7f800000;
        bits = nan ? (uint16_t)(u >> 16 | 64) : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
#define MSL_FROM(T) constexpr bfloat(T v) : bfloat((float)v) {}
    MSL_FROM(half) MSL_FROM(double) MSL_FROM(bool) MSL_FROM(char) MSL_FROM(uchar) MSL_FROM(short) MSL_FROM(ushort)
    MSL_FROM(int) MSL_FROM(uint) MSL_FROM(long) MSL_FROM(ulong)
#undef MSL_FROM
    constexpr operator float() const { return __builtin_bit_cast(float, (uint32_t)bits << 16); }
    template <class T> bfloat &operator+=(T o) { return *this = bfloat((float)*this + (float)o); }
    template <class T> bfloat &operator-=(T o) { return *this = bfloat((float)*this - (float)o); }
    template <class T> bfloat &operator*=(T o) { return *this = bfloat((float)*this * (float)o); }
    template <class T> bfloat &operator/=(T o) { return *this = bfloat((float)*this / (float)o); }
};
// Templates, so that they bind for two bfloats only and leave mixed arithmetic to f32.
template <class A, class B> struct msl_both_bfloat;
template <> struct msl_both_bfloat<bfloat, bfloat> { typedef bfloat type; };
template <class A, class B> constexpr typename msl_both_bfloat<A, B>::type operator+(A a, B b) { return bfloat((float)a + (float)b); }
template <class A, class B> constexpr typename msl_both_bfloat<A, B>::type operator-(A a, B b) { return bfloat((float)a - (float)b); }
template <class A, class B> constexpr typename msl_both_bfloat<A, B>::type operator*(A a, B b) { return bfloat((float)a * (float)b); }
template <class A, class B> constexpr typename msl_both_bfloat<A, B>::type operator/(A a, B b) { return bfloat((float)a / (float)b); }
constexpr bfloat operator-(bfloat a) { return bfloat(-(float)a); }

constexpr half operator""h(long double v) { return (half)v; }
constexpr half operator""H(long double v) { return (half)v; }
constexpr bfloat operator""bf(long double v) { return (bfloat)(float)v; }

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_huge_valf()
#define MAXFLOAT FLT_MAX
#define HALF_MAX ((half)65504.0f)
#define __HALF_MAX__ HALF_MAX
#define HALF_MIN ((half)6.103515625e-05f)
#define HALF_EPSILON ((half)0x1p-10f)
#define MAXHALF HALF_MAX
#define M_E_F 2.71828182845904523536028747135266250f
#define M_LOG2E_F 1.44269504088896340735992468100189214f
#define M_LOG10E_F 0.434294481903251827651128918916605082f
#define M_LN2_F 0.693147180559945309417232121458176568f
#define M_LN10_F 2.30258509299404568401799145468436421f
#define M_PI_F 3.14159265358979323846264338327950288f
#define M_PI_2_F 1.57079632679489661923132169163975144f
#define M_PI_4_F 0.785398163397448309615660845819875721f
#define M_1_PI_F 0.318309886183790671537767526745028724f
#define M_2_PI_F 0.636619772367581343075535053490057448f
#define M_2_SQRTPI_F 1.12837916709551257389615890312154517f
#define M_SQRT2_F 1.41421356237309504880168872420969808f
#define M_SQRT1_2_F 0.707106781186547524400844362104849039f
#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_CONST __attribute__((const))
#define METAL_PURE __attribute__((pure))

namespace metal {
using ::bfloat;
using ::half;
using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::int8_t;
using ::ptrdiff_t;
using ::size_t;
using ::uchar;
using ::uint;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;
using ::ulong;
using ::ushort;
} // namespace metal

#include "traits.h"
#include "vectors.h"
#include "mathlib.h"
#include "simdgroup.h"
#include "matrix.h"
#include "atomics.h"
#include "registration.h"

// Address spaces. All memory is of one kind here; which of it a kernel may touch is checked at
// run time. A `threadgroup` variable inside a kernel is rewritten before this (MSL_TG).
#define device
#define thread
#define constant const
#define threadgroup
#define kernel
#define coherent(x)
