#pragma once

// Vectors of the width that the including file's instruction set has, and their way from and to memory.
//
// The headers in loops/ are compiled once for each instruction set: loops_<set>.cpp defines kVectorBytes, kTileRows,
// F32, F64 and multiply_add, then includes loops/table.h. Everything here is in an unnamed namespace, and nothing calls
// an inline function of another header (the standard library's too): the linker keeps one copy of such a function,
// which could be the one compiled for AVX-512. multiply_add rounds once where the set can; everywhere else a product
// and a sum are rounded each (-ffp-contract=off), because rounding points are part of the formulas.

#include <cstdint>

#include "base/dtype.h"

namespace layerprobe::device::cpu {
namespace {

using I32 = std::int32_t __attribute__((vector_size(kVectorBytes)));
using I64 = std::int64_t __attribute__((vector_size(kVectorBytes)));
using U32 = std::uint32_t __attribute__((vector_size(kVectorBytes)));
using U16 = std::uint16_t __attribute__((vector_size(kVectorBytes / 2)));

struct Bf16 {
  std::uint16_t bits;
};
struct F16 {
  std::uint16_t bits;
};

/// What an element is computed in.
template <typename Element>
struct ArithmeticOf {
  using Scalar = float;
  using Vector = F32;
};
template <>
struct ArithmeticOf<double> {
  using Scalar = double;
  using Vector = F64;
};
template <typename Element>
using Scalar = typename ArithmeticOf<Element>::Scalar;
template <typename Element>
using Vector = typename ArithmeticOf<Element>::Vector;
template <typename Element>
constexpr std::int64_t kLanes = kVectorBytes / static_cast<std::int64_t>(sizeof(Scalar<Element>));

/// Calls work.operator()<Element>() with the C++ type of `dtype`.
template <typename Work>
[[gnu::always_inline]] inline void dispatch(Dtype dtype, Work work) {
  switch (dtype) {
    case Dtype::f64:
      return work.template operator()<double>();
    case Dtype::f32:
      return work.template operator()<float>();
    case Dtype::f16:
      return work.template operator()<F16>();
    case Dtype::bf16:
      return work.template operator()<Bf16>();
    case Dtype::i32:
      return;  // refused by the argument checks
  }
}

/// A vector of whole numbers as wide as the element's arithmetic type, and 0, 1, 2, ... in it.
template <typename Element>
using Lanes = decltype(Vector<Element>{} == Vector<Element>{});
template <typename Element>
inline Lanes<Element> lane_numbers() {
  Lanes<Element> lanes = {};
  for (int lane = 0; lane < kLanes<Element>; ++lane) lanes[lane] = lane;
  return lanes;
}

// The bits of base/float16.h, a vector at a time.

inline F32 widen(U16 half, Bf16) { return (F32)(__builtin_convertvector(half, U32) << 16); }

inline F32 widen(U16 half, F16) {
  const U32 wide = __builtin_convertvector(half, U32);
  const U32 sign = (wide & 0x8000u) << 16;
  const U32 magnitude = wide & 0x7fffu;
  const F32 subnormal = __builtin_convertvector((I32)magnitude, F32) * 0x1p-24f;
  const U32 normal = (magnitude << 13) + (112u << 23);
  const U32 not_finite = (magnitude << 13) | 0x7f800000u;
  const U32 value = magnitude < 0x400u ? (U32)subnormal : magnitude < 0x7c00u ? normal : not_finite;
  return (F32)(value | sign);
}

/// The bits of `value` rounded to bf16 in their upper half; the lower half is of no meaning.
inline U32 bf16_above(F32 value) {
  const U32 bits = (U32)value;
  const U32 quiet = (bits & 0x80000000u) | 0x7fc00000u;
  return value != value ? quiet : bits + 0x7fffu + (bits >> 16 & 1u);
}

inline U16 narrow(F32 value, Bf16) { return __builtin_convertvector(bf16_above(value) >> 16, U16); }

inline U16 narrow(F32 value, F16) {
  const U32 bits = (U32)value;
  const U32 sign = bits >> 16 & 0x8000u;
  const U32 magnitude = bits & 0x7fffffffu;
  const U32 subnormal = (U32)((F32)magnitude + 0.5f) - 0x3f000000u;
  const U32 normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  U32 rounded = magnitude < 0x38800000u ? subnormal : normal;
  rounded = magnitude >= 0x477ff000u ? (U32{} + 0x7c00u) : rounded;
  rounded = magnitude > 0x7f800000u ? (U32{} + 0x7e00u) : rounded;
  return __builtin_convertvector(rounded | sign, U16);
}

/// kLanes<Element> elements from p.
template <typename Element>
inline Vector<Element> load(const Element* p) {
  if constexpr (sizeof(Element) == 2) {
    U16 half;
    __builtin_memcpy(&half, p, sizeof half);
    return widen(half, Element{});
  } else {
    Vector<Element> value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
  }
}

template <typename Element>
inline void store(Element* p, Vector<Element> value) {
  if constexpr (sizeof(Element) == 2) {
    const U16 half = narrow(value, Element{});
    __builtin_memcpy(p, &half, sizeof half);
  } else {
    __builtin_memcpy(p, &value, sizeof value);
  }
}

/// The first `count` lanes from p, zeros in the others.
template <typename Element>
inline Vector<Element> load_first(const Element* p, std::int64_t count) {
  Element padded[kLanes<Element>] = {};
  for (std::int64_t lane = 0; lane < count; ++lane) padded[lane] = p[lane];
  return load(padded);
}

/// The first `count` lanes to p.
template <typename Element>
inline void store_first(Element* p, Vector<Element> value, std::int64_t count) {
  Element padded[kLanes<Element>];
  store(padded, value);
  for (std::int64_t lane = 0; lane < count; ++lane) p[lane] = padded[lane];
}

/// value rounded to Element, as its arithmetic type.
template <typename Element>
inline Vector<Element> rounded(Vector<Element> value) {
  return value;
}
template <>
inline F32 rounded<Bf16>(F32 value) {
  return (F32)(bf16_above(value) & 0xffff0000u);
}
template <>
inline F32 rounded<F16>(F32 value) {
  return widen(narrow(value, F16{}), F16{});
}

template <typename Element>
inline Scalar<Element> value_of(const Element& element) {
  return load_first(&element, 1)[0];
}

/// Access to the columns of one vector: all of them, or the first few at the end of a row.
struct WholeVector {
  template <typename Element>
  Vector<Element> load(const Element* p) const {
    return cpu::load(p);
  }
  template <typename Element>
  void store(Element* p, Vector<Element> value) const {
    cpu::store(p, value);
  }
};
struct FirstLanes {
  std::int64_t count;

  template <typename Element>
  Vector<Element> load(const Element* p) const {
    return load_first(p, count);
  }
  template <typename Element>
  void store(Element* p, Vector<Element> value) const {
    store_first(p, value, count);
  }
};

/// Calls work(column, access) for each vector of a row of `columns` elements.
template <typename Element, typename Work>
[[gnu::always_inline]] inline void for_each_vector(std::int64_t columns, Work work) {
  std::int64_t column = 0;
  for (; column + kLanes<Element> <= columns; column += kLanes<Element>) work(column, WholeVector{});
  if (column < columns) work(column, FirstLanes{columns - column});
}

template <typename V>
inline auto sum_of_lanes(V value) {
  constexpr int kCount = sizeof(V) / sizeof(value[0]);
  for (int half = kCount / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) value[lane] += value[lane + half];
  }
  return value[0];
}

template <typename V>
inline V larger(V a, V b) {
  return a > b ? a : b;
}

template <typename V>
inline auto max_of_lanes(V value) {
  constexpr int kCount = sizeof(V) / sizeof(value[0]);
  auto max = value[0];
  for (int lane = 1; lane < kCount; ++lane) max = value[lane] > max ? value[lane] : max;
  return max;
}

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

/// e^x to about 1 ulp: x = n ln 2 + r, then the polynomial of Cephes' expf. NaN stays NaN; infinity beyond f32's
/// largest number, 0 below e^-87 (near its smallest normal one).
inline F32 exponential(F32 x) {
  constexpr float kRounder = 0x1.8p23f;  // adding it leaves round(n) in the low bits
  x = x > 89.0f ? (F32{} + 89.0f) : x;
  const F32 shifted = multiply_add(x, F32{} + 0x1.715476p0f, F32{} + kRounder);
  const F32 n = shifted - kRounder;
  F32 r = multiply_add(n, F32{} - 0.693359375f, x);  // 355/512: exact even where product and sum round each
  r = multiply_add(n, F32{} + 2.12194440e-4f, r);
  F32 p = F32{} + 1.9875691500e-4f;
  p = multiply_add(p, r, F32{} + 1.3981999507e-3f);
  p = multiply_add(p, r, F32{} + 8.3334519073e-3f);
  p = multiply_add(p, r, F32{} + 4.1665795894e-2f);
  p = multiply_add(p, r, F32{} + 1.6666665459e-1f);
  p = multiply_add(p, r, F32{} + 5.0000001201e-1f);
  p = multiply_add(p, r * r, r) + 1.0f;
  const F32 half_scale = (F32)(((U32)shifted << 23) + (126u << 23));  // 2^(n - 1): 2^n itself may be infinite
  p = p * half_scale;
  p = p + p;
  return x < -87.0f ? F32{} : p;
}

/// e^x for x <= 0 to 4 digits, 0 below the smallest normal number, NaN for NaN: 2^23 times (x log2(e) less a cubic in
/// its fraction) plus the exponent's bias is the result's bit pattern. Malossi et al. 2015, "Fast exponential
/// computation on SIMD architectures"; coefficients of torch's fexp_u20.
inline F32 fast_exponential(F32 x) {
  const F32 clamped = x < -87.3365447505531f ? (F32{} - 87.0f) : x;
  const F32 y = clamped * 1.44269504f;
  const F32 whole = __builtin_convertvector(__builtin_convertvector(y, I32), F32);
  const F32 fraction = y - (whole > y ? whole - 1.0f : whole);
  F32 cubic = multiply_add(fraction, F32{} - 0.079204240219773236f, F32{} - 0.22433836478672356f);
  cubic = multiply_add(fraction, cubic, F32{} + 0.30354260500649682f);
  cubic = multiply_add(fraction, cubic, F32{} + 0.00010703434948458272f);
  const F32 bits = multiply_add(y - cubic, F32{} + 0x1p23f, F32{} + 127 * 0x1p23f);
  const F32 value = (F32) __builtin_convertvector(bits, I32);
  const F32 in_range = x < -87.3365447505531f ? F32{} : value;
  return x == x ? in_range : x;
}

inline F64 exponential(F64 x) {
  for (std::int64_t lane = 0; lane < kLanes<double>; ++lane) x[lane] = __builtin_exp(x[lane]);
  return x;
}

}  // namespace
}  // namespace layerprobe::device::cpu
