// Compiled once for each instruction set (CMakeLists.txt), each time into its own namespace, LAYERPROBE_ISA. Nothing
// inline from a header is called here: the linker keeps one copy of such a function, and it could be the one with
// instructions that another processor lacks.
//
// A row is taken 8 elements at a time, as many vectors of the widest kind there is: kParts of kPart f64 lanes.
#include "compare/row_kernel_isa.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace layerprobe::compare::LAYERPROBE_ISA {
namespace {

constexpr std::int64_t kLanes = 8;
#if defined(__AVX512F__)
constexpr int kPart = 8;
#elif defined(__AVX2__)
constexpr int kPart = 4;
#else
constexpr int kPart = 2;
#endif
constexpr int kParts = kLanes / kPart;
using F64 = double __attribute__((vector_size(8 * kPart)));
using I64 = std::int64_t __attribute__((vector_size(8 * kPart)));
using F32 = float __attribute__((vector_size(4 * kPart)));
using U32 = std::uint32_t __attribute__((vector_size(4 * kPart)));
using I32 = std::int32_t __attribute__((vector_size(4 * kPart)));
using U16 = std::uint16_t __attribute__((vector_size(2 * kPart)));

// What the compiler makes slow code of when left to itself.
#if defined(__AVX512F__)
F64 f64_of(F32 x) { return _mm512_cvtps_pd(x); }
U32 u32_of(U16 x) { return (U32)_mm256_cvtepu16_epi32((__m128i)x); }
F32 f32_of_f16(U16 x) { return _mm256_cvtph_ps((__m128i)x); }
F64 max_of(F64 x, F64 y) { return _mm512_max_pd(x, y); }  // y where one is NaN
#elif defined(__AVX2__)
F64 f64_of(F32 x) { return _mm256_cvtps_pd(x); }
U32 u32_of(U16 x) { return (U32)_mm_cvtepu16_epi32(_mm_set_epi64x(0, (std::int64_t)x)); }
F32 f32_of_f16(U16 x) { return _mm_cvtph_ps(_mm_set_epi64x(0, (std::int64_t)x)); }
F64 max_of(F64 x, F64 y) { return _mm256_max_pd(x, y); }
#else
F64 f64_of(F32 x) { return __builtin_convertvector(x, F64); }
U32 u32_of(U16 x) { return __builtin_convertvector(x, U32); }
F32 f32_of_f16(U16 x) {
  const U32 half = u32_of(x);
  const U32 magnitude = (half & 0x7fffu) << 13;
  const U32 finite = (U32)((F32)magnitude * 0x1p112f);  // moves the exponent's bias; exact for subnormals too
  const U32 bits = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : finite;
  return (F32)(bits | (half & 0x8000u) << 16);
}
F64 max_of(F64 x, F64 y) { return x > y ? x : y; }
#endif

// How the elements of a dtype become f64 and back.

struct OfF64 {
  using Element = double;
  using Part = F64;
  static F64 widened(Part x) { return x; }
};

struct OfF32 {
  using Element = float;
  using Part = F32;
  static F64 widened(Part x) { return f64_of(x); }
  static Part narrowed(F64 x) { return __builtin_convertvector(x, F32); }
};

struct OfI32 {
  using Element = std::int32_t;
  using Part = I32;
  static F64 widened(Part x) { return __builtin_convertvector(x, F64); }
};

struct OfBf16 {
  using Element = std::uint16_t;
  using Part = U16;
  static F64 widened(Part x) { return f64_of((F32)(u32_of(x) << 16)); }
  static Part narrowed(F64 x) {
    const U32 bits = (U32)OfF32::narrowed(x);
    const U32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const U32 nan = (bits >> 16 & 0x8000u) | 0x7fc0u;
    return __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded, U16);
  }
};

struct OfF16 {
  using Element = std::uint16_t;
  using Part = U16;
  static F64 widened(Part x) { return f64_of(f32_of_f16(x)); }
  static Part narrowed(F64 x) {
    const U32 bits = (U32)OfF32::narrowed(x);
    const U32 magnitude = bits & 0x7fffffffu;
    const U32 normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
    const U32 subnormal = (U32)((F32)magnitude + 0.5f) - 0x3f000000u;  // 0.5 has an ulp of 2^-24: the addition rounds
    U32 half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x477ff000u ? U32{} + 0x7c00u : half;
    half = magnitude > 0x7f800000u ? U32{} + 0x7e00u : half;
    return __builtin_convertvector(half | (bits >> 16 & 0x8000u), U16);
  }
};

template <typename Of>
F64 part_of(const typename Of::Element* eight, int part) {
  typename Of::Part x;
  __builtin_memcpy(&x, eight + part * kPart, sizeof x);
  return Of::widened(x);
}

/// Calls work(elements, index, count) for each 8 elements of the row, the last ones filled up with zeros.
template <typename Of, typename Work>
void for_each_eight(const void* row, std::int64_t width, const Work& work) {
  const auto* elements = static_cast<const typename Of::Element*>(row);
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) work(elements + i, i, kLanes);
  if (i == width) return;
  typename Of::Element rest[kLanes] = {};
  __builtin_memcpy(rest, elements + i, static_cast<std::size_t>(width - i) * sizeof *rest);
  work(rest, i, width - i);
}

F64 magnitude_of(F64 x) { return (F64)((I64)x & INT64_MAX); }

/// 8 running values, one a lane.
struct Lanes {
  F64 parts[kParts] = {};

  double lane(int i) const { return parts[i / kPart][i % kPart]; }
  void raise_to(int part, F64 x) { parts[part] = max_of(x, parts[part]); }

  double sum() const {
    return ((lane(0) + lane(4)) + (lane(2) + lane(6))) + ((lane(1) + lane(5)) + (lane(3) + lane(7)));
  }
  double max() const {
    double most = lane(0);
    for (int i = 1; i < kLanes; ++i) most = lane(i) > most ? lane(i) : most;
    return most;
  }
};

template <typename Of>
RowSums difference_of(const void* reference, const void* candidate, std::int64_t width) {
  using Element = typename Of::Element;
  Lanes difference_squares, reference_squares, candidate_squares, products, absolute_differences;
  Lanes max_abs_difference, max_abs_reference;
  const auto add = [&](const Element* reference_eight, const Element* candidate_eight) {
    for (int part = 0; part < kParts; ++part) {
      const F64 r = part_of<Of>(reference_eight, part);
      const F64 c = part_of<Of>(candidate_eight, part);
      const F64 d = c - r;
      difference_squares.parts[part] += d * d;
      reference_squares.parts[part] += r * r;
      candidate_squares.parts[part] += c * c;
      products.parts[part] += r * c;
      absolute_differences.parts[part] += magnitude_of(d);
      max_abs_difference.raise_to(part, magnitude_of(d));
      max_abs_reference.raise_to(part, magnitude_of(r));
    }
  };
  const auto* candidate_elements = static_cast<const Element*>(candidate);
  for_each_eight<Of>(reference, width, [&](const Element* eight, std::int64_t i, std::int64_t count) {
    if (count == kLanes) return add(eight, candidate_elements + i);
    Element rest[kLanes] = {};
    __builtin_memcpy(rest, candidate_elements + i, static_cast<std::size_t>(count) * sizeof *rest);
    add(eight, rest);
  });
  return {.difference_squares = difference_squares.sum(),
          .reference_squares = reference_squares.sum(),
          .candidate_squares = candidate_squares.sum(),
          .products = products.sum(),
          .absolute_differences = absolute_differences.sum(),
          .max_abs_difference = max_abs_difference.max(),
          .max_abs_reference = max_abs_reference.max()};
}

template <typename Of>
RowSums same_of(const void* row, std::int64_t width) {
  Lanes squares, max_abs;
  for_each_eight<Of>(row, width, [&](const typename Of::Element* eight, std::int64_t, std::int64_t) {
    for (int part = 0; part < kParts; ++part) {
      const F64 r = part_of<Of>(eight, part);
      squares.parts[part] += r * r;
      max_abs.raise_to(part, magnitude_of(r));
    }
  });
  const double sum = squares.sum();
  return {.difference_squares = 0,
          .reference_squares = sum,
          .candidate_squares = sum,
          .products = sum,
          .absolute_differences = 0,
          .max_abs_difference = 0,
          .max_abs_reference = max_abs.max()};
}

/// `Bits` are unsigned and as long as the elements; a widest vector of them at once. A chunk's counts fit into a lane.
template <typename Bits>
void ulps_of(const void* reference, const void* candidate, std::int64_t width, std::int64_t* counts) {
  typedef Bits Vector __attribute__((vector_size(8 * kPart)));  // `using` drops the attribute of a dependent type
  constexpr std::int64_t kCount = 8 * kPart / sizeof(Bits);
  constexpr std::int64_t kChunk = kCount << 12;
  constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  const auto rank_of = [](Vector bits) {
    const Vector magnitude = bits & static_cast<Bits>(~kSign);
    return (bits & kSign) != 0 ? kSign - magnitude : kSign + magnitude;
  };
  for (std::int64_t first = 0; first < width; first += kChunk) {
    const std::int64_t end = width - first < kChunk ? width : first + kChunk;
    Vector within[kUlpBuckets - 1] = {};
    std::int64_t padded = 0;  // elements behind the row's end, which are the same on both sides
    for (std::int64_t i = first; i < end; i += kCount) {
      const std::int64_t here = end - i < kCount ? end - i : kCount;
      Vector r{}, c{};
      if (here == kCount) {
        __builtin_memcpy(&r, static_cast<const Bits*>(reference) + i, sizeof r);
        __builtin_memcpy(&c, static_cast<const Bits*>(candidate) + i, sizeof c);
      } else {
        __builtin_memcpy(&r, static_cast<const Bits*>(reference) + i, static_cast<std::size_t>(here) * sizeof(Bits));
        __builtin_memcpy(&c, static_cast<const Bits*>(candidate) + i, static_cast<std::size_t>(here) * sizeof(Bits));
        padded += kCount - here;
      }
      r = rank_of(r);
      c = rank_of(c);
      const Vector apart = c > r ? c - r : r - c;
      for (int bucket = 0; bucket < kUlpBuckets - 1; ++bucket) {
        within[bucket] -= (Vector)(apart <= static_cast<Bits>(kUlpLimits[bucket]));  // true is -1
      }
    }
    std::int64_t below = 0;
    for (int bucket = 0; bucket < kUlpBuckets - 1; ++bucket) {
      std::int64_t sum = -padded;
      for (int lane = 0; lane < kCount; ++lane) sum += static_cast<std::int64_t>(within[bucket][lane]);
      counts[bucket] += sum - below;
      below = sum;
    }
    counts[kUlpBuckets - 1] += end - first - below;
  }
}

template <typename Of>
void widen_of(const void* row, std::int64_t width, double* out) {
  for_each_eight<Of>(row, width, [&](const typename Of::Element* eight, std::int64_t i, std::int64_t count) {
    double wide[kLanes];
    for (int part = 0; part < kParts; ++part) {
      const F64 x = part_of<Of>(eight, part);
      __builtin_memcpy(wide + part * kPart, &x, sizeof x);
    }
    __builtin_memcpy(out + i, wide, static_cast<std::size_t>(count) * sizeof *wide);
  });
}

template <typename Of>
void narrow_of(const double* row, std::int64_t width, void* out) {
  using Element = typename Of::Element;
  for_each_eight<OfF64>(row, width, [&](const double* eight, std::int64_t i, std::int64_t count) {
    Element narrow[kLanes];
    for (int part = 0; part < kParts; ++part) {
      const typename Of::Part x = Of::narrowed(part_of<OfF64>(eight, part));
      __builtin_memcpy(narrow + part * kPart, &x, sizeof x);
    }
    __builtin_memcpy(static_cast<Element*>(out) + i, narrow, static_cast<std::size_t>(count) * sizeof(Element));
  });
}

RowSums difference(Dtype dtype, const void* reference, const void* candidate, std::int64_t width) {
  switch (dtype) {
    case Dtype::f64:
      return difference_of<OfF64>(reference, candidate, width);
    case Dtype::f32:
      return difference_of<OfF32>(reference, candidate, width);
    case Dtype::i32:
      return difference_of<OfI32>(reference, candidate, width);
    case Dtype::f16:
      return difference_of<OfF16>(reference, candidate, width);
    case Dtype::bf16:
      return difference_of<OfBf16>(reference, candidate, width);
  }
  return {};
}

RowSums same(Dtype dtype, const void* row, std::int64_t width) {
  switch (dtype) {
    case Dtype::f64:
      return same_of<OfF64>(row, width);
    case Dtype::f32:
      return same_of<OfF32>(row, width);
    case Dtype::i32:
      return same_of<OfI32>(row, width);
    case Dtype::f16:
      return same_of<OfF16>(row, width);
    case Dtype::bf16:
      return same_of<OfBf16>(row, width);
  }
  return {};
}

void ulps(Dtype dtype, const void* reference, const void* candidate, std::int64_t width, std::int64_t* counts) {
  switch (dtype) {
    case Dtype::f64:
      return ulps_of<std::uint64_t>(reference, candidate, width, counts);
    case Dtype::f32:
      return ulps_of<std::uint32_t>(reference, candidate, width, counts);
    case Dtype::f16:
    case Dtype::bf16:
      return ulps_of<std::uint16_t>(reference, candidate, width, counts);
    case Dtype::i32:
      return;  // they have no last place
  }
}

void widen(Dtype dtype, const void* row, std::int64_t width, double* out) {
  switch (dtype) {
    case Dtype::f64:
      return widen_of<OfF64>(row, width, out);
    case Dtype::f32:
      return widen_of<OfF32>(row, width, out);
    case Dtype::i32:
      return widen_of<OfI32>(row, width, out);
    case Dtype::f16:
      return widen_of<OfF16>(row, width, out);
    case Dtype::bf16:
      return widen_of<OfBf16>(row, width, out);
  }
}

void narrow(Dtype dtype, const double* row, std::int64_t width, void* out) {
  switch (dtype) {
    case Dtype::f64:
      if (width > 0) __builtin_memcpy(out, row, static_cast<std::size_t>(width) * sizeof(double));
      return;
    case Dtype::f32:
      return narrow_of<OfF32>(row, width, out);
    case Dtype::f16:
      return narrow_of<OfF16>(row, width, out);
    case Dtype::bf16:
      return narrow_of<OfBf16>(row, width, out);
    case Dtype::i32:
      return;  // nothing is rounded to integers
  }
}

}  // namespace

#define LAYERPROBE_TEXT_OF(name) #name
#define LAYERPROBE_TEXT(name) LAYERPROBE_TEXT_OF(name)

const RowKernels kRowKernels = {.name = LAYERPROBE_TEXT(LAYERPROBE_ISA),
                                .difference = difference,
                                .same = same,
                                .ulps = ulps,
                                .widen = widen,
                                .narrow = narrow};

}  // namespace layerprobe::compare::LAYERPROBE_ISA
