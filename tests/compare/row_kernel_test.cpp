#include "compare/row_kernel.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/float16.h"

namespace layerprobe::compare {
namespace {

constexpr Dtype kFloats[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};
constexpr std::int64_t kWidths[] = {0, 1, 7, 8, 9, 16, 31, 64, 577};  // around the 8 lanes

std::vector<double> normal(std::int64_t width, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> distribution;
  std::vector<double> values(static_cast<std::size_t>(width));
  for (double& value : values) value = distribution(engine) * std::exp2(static_cast<double>(engine() % 20) - 10);
  return values;
}

std::vector<std::byte> narrowed(const RowKernels& kernels, Dtype dtype, const std::vector<double>& values) {
  std::vector<std::byte> row(values.size() * size_of(dtype));
  kernels.narrow(dtype, values.data(), static_cast<std::int64_t>(values.size()), row.data());
  return row;
}

std::vector<double> widened(const RowKernels& kernels, Dtype dtype, const std::vector<std::byte>& row) {
  std::vector<double> values(row.size() / size_of(dtype));
  kernels.widen(dtype, row.data(), static_cast<std::int64_t>(values.size()), values.data());
  return values;
}

bool same_bits(const RowSums& a, const RowSums& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

TEST_CASE("the sums of a row are those of the formula") {
  for (const RowKernels& kernels : row_kernels()) {
    for (const Dtype dtype : kFloats) {
      for (const std::int64_t width : kWidths) {
        CAPTURE(kernels.name);
        CAPTURE(name_of(dtype));
        CAPTURE(width);
        const std::vector<std::byte> reference = narrowed(kernels, dtype, normal(width, 1));
        const std::vector<std::byte> candidate = narrowed(kernels, dtype, normal(width, 2));
        const std::vector<double> r = widened(kernels, dtype, reference);
        const std::vector<double> c = widened(kernels, dtype, candidate);
        RowSums want;
        for (std::size_t i = 0; i < r.size(); ++i) {
          want.difference_squares += (c[i] - r[i]) * (c[i] - r[i]);
          want.reference_squares += r[i] * r[i];
          want.candidate_squares += c[i] * c[i];
          want.products += r[i] * c[i];
          want.max_abs_difference = std::max(want.max_abs_difference, std::fabs(c[i] - r[i]));
          want.max_abs_reference = std::max(want.max_abs_reference, std::fabs(r[i]));
        }
        const RowSums got = kernels.difference(dtype, reference.data(), candidate.data(), width);
        CHECK(got.difference_squares == doctest::Approx(want.difference_squares).epsilon(1e-13));
        CHECK(got.reference_squares == doctest::Approx(want.reference_squares).epsilon(1e-13));
        CHECK(got.candidate_squares == doctest::Approx(want.candidate_squares).epsilon(1e-13));
        CHECK(std::fabs(got.products - want.products) <= 1e-13 * want.reference_squares + 1e-300);
        CHECK(got.max_abs_difference == want.max_abs_difference);
        CHECK(got.max_abs_reference == want.max_abs_reference);
      }
    }
  }
}

TEST_CASE("every instruction set gives the same bits") {
  const RowKernels& baseline = row_kernels().front();
  for (const RowKernels& kernels : row_kernels()) {
    for (const Dtype dtype : kFloats) {
      for (const std::int64_t width : kWidths) {
        CAPTURE(kernels.name);
        CAPTURE(name_of(dtype));
        CAPTURE(width);
        const std::vector<std::byte> reference = narrowed(baseline, dtype, normal(width, 3));
        const std::vector<std::byte> candidate = narrowed(baseline, dtype, normal(width, 4));
        CHECK(narrowed(kernels, dtype, normal(width, 3)) == reference);
        CHECK(same_bits(kernels.difference(dtype, reference.data(), candidate.data(), width),
                        baseline.difference(dtype, reference.data(), candidate.data(), width)));
        CHECK(same_bits(kernels.same(dtype, reference.data(), width),
                        baseline.difference(dtype, reference.data(), reference.data(), width)));
      }
    }
  }
}

TEST_CASE("all values of 16 bits widen to what they are and narrow back to themselves") {
  for (const RowKernels& kernels : row_kernels()) {
    CAPTURE(kernels.name);
    for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
      CAPTURE(name_of(dtype));
      std::vector<std::byte> row(std::size_t{65536} * 2);
      for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        const auto half = static_cast<std::uint16_t>(bits);
        std::memcpy(row.data() + std::size_t{bits} * 2, &half, 2);
      }
      const std::vector<double> values = widened(kernels, dtype, row);
      const std::vector<std::byte> back = narrowed(kernels, dtype, values);
      int wrong_values = 0, wrong_bits = 0;
      for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        const auto half = static_cast<std::uint16_t>(bits);
        const float want = dtype == Dtype::f16 ? f32_of_f16(half) : f32_of_bf16(half);
        if (std::isnan(want)) {
          wrong_values += !std::isnan(values[bits]);
          continue;
        }
        wrong_values += std::bit_cast<std::uint64_t>(values[bits]) != std::bit_cast<std::uint64_t>(double{want});
        wrong_bits += std::memcmp(back.data() + std::size_t{bits} * 2, &half, 2) != 0;
      }
      CHECK(wrong_values == 0);
      CHECK(wrong_bits == 0);
    }
  }
}

TEST_CASE("narrowing rounds as base/float16.h does") {
  std::vector<float> floats = {0.0f,
                               -0.0f,
                               65504.0f,
                               65519.99f,
                               65520.0f,
                               1e30f,
                               3.4e38f,
                               0x1p-24f,
                               0x1p-25f,
                               0x1.8p-25f,
                               0x1p-14f,
                               0x1.ffcp-15f,
                               std::numeric_limits<float>::infinity(),
                               std::numeric_limits<float>::quiet_NaN(),
                               -std::numeric_limits<float>::quiet_NaN()};
  std::mt19937 engine(5);
  for (int i = 0; i < 20000; ++i) floats.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(engine())));
  for (int i = 0; i < 20000; ++i)
    floats.push_back(std::ldexp(1.0f, static_cast<int>(engine() % 48) - 30) *
                     (1 + static_cast<float>(engine() % 8192) / 8192));
  const std::vector<double> values(floats.begin(), floats.end());
  for (const RowKernels& kernels : row_kernels()) {
    for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
      CAPTURE(kernels.name);
      CAPTURE(name_of(dtype));
      const std::vector<std::byte> row = narrowed(kernels, dtype, values);
      int wrong = 0;
      for (std::size_t i = 0; i < floats.size(); ++i) {
        const std::uint16_t want = dtype == Dtype::f16 ? f16_of_f32(floats[i]) : bf16_of_f32(floats[i]);
        std::uint16_t got = 0;
        std::memcpy(&got, row.data() + i * 2, 2);
        wrong += got != want;
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("a NaN or infinity shows in its side's squares and not in the maxima") {
  for (const RowKernels& kernels : row_kernels()) {
    CAPTURE(kernels.name);
    std::vector<double> r(19, 1.0), c(19, 2.0);
    c[17] = std::numeric_limits<double>::quiet_NaN();
    const RowSums sums = kernels.difference(Dtype::f64, r.data(), c.data(), 19);
    CHECK(std::isfinite(sums.reference_squares));
    CHECK_FALSE(std::isfinite(sums.candidate_squares));
    CHECK(sums.max_abs_difference == 1.0);
    r[3] = std::numeric_limits<double>::infinity();
    CHECK_FALSE(std::isfinite(kernels.difference(Dtype::f64, r.data(), c.data(), 19).reference_squares));
  }
}

}  // namespace layerprobe::compare
