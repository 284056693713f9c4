#include "weights/read_scaled.h"

#include <array>
#include <cmath>
#include <exception>
#include <limits>
#include <span>
#include <vector>

#include "weights/convert.h"
#include "weights/read_values.h"

namespace layerprobe::weights {
namespace {

constexpr std::int64_t kPieceElements = 65'536;  // about, that a core reads and converts at a time

std::array<float, 256> all_e4m3() {
  std::array<float, 256> table{};
  for (std::size_t bits = 0; bits < table.size(); ++bits) table[bits] = f32_of_e4m3(static_cast<std::uint8_t>(bits));
  return table;
}

/// The factors in A; powers of two are stored as their exponents.
template <typename A>
std::vector<A> read_factors(const ScaledTensor& values) {
  std::vector<A> factors(static_cast<std::size_t>(values.scales.num_elements()));
  constexpr Dtype kDtype = sizeof(A) == sizeof(double) ? Dtype::f64 : Dtype::f32;
  if (values.scales.storage != Storage::f8_e8m0) {
    read_values(values.scales_file, values.scales, kDtype, reinterpret_cast<std::byte*>(factors.data()));
    return factors;
  }
  std::vector<std::uint8_t> exponents(factors.size());
  values.scales_file.read_at(values.scales.offset, std::as_writable_bytes(std::span(exponents)));
  for (std::size_t i = 0; i < factors.size(); ++i) {
    factors[i] = exponents[i] == 255 ? std::numeric_limits<A>::quiet_NaN() : std::ldexp(A{1}, int{exponents[i]} - 127);
  }
  return factors;
}

template <typename A>
void read_rows(const ScaledTensor& values, const std::vector<A>& factors, std::int64_t first, std::int64_t last,
               Dtype dtype, std::byte* out) {
  static const std::array<float, 256> kNumbers = all_e4m3();
  const std::int64_t columns = values.tensor.shape[1], scale_columns = values.scales.shape[1];
  std::vector<std::uint8_t> stored(static_cast<std::size_t>((last - first) * columns));
  values.file.read_at(values.tensor.offset + static_cast<std::uint64_t>(first * columns),
                      std::as_writable_bytes(std::span(stored)));
  std::vector<A> row_values(static_cast<std::size_t>(columns));
  for (std::int64_t row = first; row < last; ++row) {
    const std::uint8_t* const from = stored.data() + (row - first) * columns;
    const A* const row_factors = factors.data() + row / values.block_rows * scale_columns;
    for (std::int64_t column = 0; column < columns; ++column) {
      row_values[static_cast<std::size_t>(column)] =
          A{kNumbers[from[column]]} * row_factors[column / values.block_columns];
    }
    convert(sizeof(A) == sizeof(double) ? Storage::f64 : Storage::f32,
            reinterpret_cast<const std::byte*>(row_values.data()), columns, dtype,
            out + row * columns * static_cast<std::int64_t>(size_of(dtype)));
  }
}

template <typename A>
void read_all(const ScaledTensor& values, Dtype dtype, std::byte* out) {
  const std::vector<A> factors = read_factors<A>(values);
  const std::int64_t rows = values.tensor.shape[0];
  const std::int64_t piece = std::max<std::int64_t>(1, kPieceElements / values.tensor.shape[1]);
  const std::int64_t num_pieces = (rows + piece - 1) / piece;
  std::exception_ptr failure;  // an exception must not leave a parallel region
#pragma omp parallel for schedule(dynamic) if (num_pieces > 1)
  for (std::int64_t i = 0; i < num_pieces; ++i) {
    try {
      read_rows(values, factors, i * piece, std::min(rows, (i + 1) * piece), dtype, out);
    } catch (...) {
#pragma omp critical(read_scaled_failure)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

float f32_of_e4m3(std::uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

void read_scaled_values(const ScaledTensor& values, Dtype dtype, std::byte* out) {
  if (dtype == Dtype::f64) return read_all<double>(values, dtype, out);
  read_all<float>(values, dtype, out);
}

}  // namespace layerprobe::weights
