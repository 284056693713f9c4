#include "tests/support/values.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>

#include "base/float16.h"
#include "device/backends.h"
#include "device/cpu/cpu_ops.h"
#include "device/cpu/onednn.h"

namespace layerprobe::test {
namespace {

/// To nearest, ties to even, with `bits` of mantissa and the smallest normal number 2^min_exponent. Straight from f64:
/// by way of f32 it would round twice.
double rounded_to(double value, int bits, int min_exponent, double largest) {
  if (!std::isfinite(value) || value == 0) return value;
  const int exponent = std::max(std::ilogb(value), min_exponent);
  const double unit = std::ldexp(1.0, exponent - bits);
  const double result = std::nearbyint(value / unit) * unit;
  return std::abs(result) > largest ? std::copysign(std::numeric_limits<double>::infinity(), value) : result;
}

constexpr std::int32_t kPoison = std::numeric_limits<std::int32_t>::min();  // stands for NaN among integers

}  // namespace

double rounded(double value, Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return static_cast<float>(value);
    case Dtype::bf16:
      return rounded_to(value, 7, -126, 0x1.fep127);
    case Dtype::f16:
      return rounded_to(value, 10, -14, 65504);
    default:
      return value;
  }
}

std::vector<std::byte> bytes_of(const Values& values) {
  std::vector<std::byte> bytes(values.data.size() * size_of(values.dtype));
  for (std::size_t i = 0; i < values.data.size(); ++i) {
    std::byte* to = bytes.data() + i * size_of(values.dtype);
    const auto value = static_cast<float>(values.data[i]);
    const std::int32_t integer = std::isnan(values.data[i]) ? kPoison : static_cast<std::int32_t>(values.data[i]);
    const std::uint16_t half = values.dtype == Dtype::bf16 ? bf16_of_f32(value) : f16_of_f32(value);
    if (values.dtype == Dtype::f64) {
      std::memcpy(to, &values.data[i], sizeof(double));
    } else if (values.dtype == Dtype::f32) {
      std::memcpy(to, &value, sizeof(float));
    } else if (values.dtype == Dtype::i32) {
      std::memcpy(to, &integer, sizeof integer);
    } else {
      std::memcpy(to, &half, sizeof half);
    }
  }
  return bytes;
}

Values values_of(const std::byte* bytes, Dtype dtype, std::int64_t rows, std::int64_t columns) {
  Values values{rows, columns, dtype, std::vector<double>(static_cast<std::size_t>(rows * columns))};
  for (std::size_t i = 0; i < values.data.size(); ++i) {
    const std::byte* from = bytes + i * size_of(dtype);
    float value;
    std::uint16_t half;
    std::int32_t integer;
    if (dtype == Dtype::f64) {
      std::memcpy(&values.data[i], from, sizeof(double));
    } else if (dtype == Dtype::f32) {
      std::memcpy(&value, from, sizeof value);
      values.data[i] = value;
    } else if (dtype == Dtype::i32) {
      std::memcpy(&integer, from, sizeof integer);
      values.data[i] = integer == kPoison ? std::numeric_limits<double>::quiet_NaN() : integer;
    } else {
      std::memcpy(&half, from, sizeof half);
      values.data[i] = dtype == Dtype::bf16 ? f32_of_bf16(half) : f32_of_f16(half);
    }
  }
  return values;
}

Values random(std::int64_t rows, std::int64_t columns, Dtype dtype, std::uint64_t seed, double scale) {
  Values values = filled(rows, columns, dtype, 0);
  std::mt19937_64 bits(seed);
  const auto uniform = [&] { return (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53; };
  for (double& value : values.data) {  // Box-Muller: std::normal_distribution differs between libraries
    value = rounded(scale * std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()), dtype);
  }
  return values;
}

Values integers(std::int64_t rows, std::int64_t columns, Dtype dtype, std::uint64_t seed, int limit) {
  Values values = filled(rows, columns, dtype, 0);
  std::mt19937_64 bits(seed);
  for (double& value : values.data) value = static_cast<double>(bits() % static_cast<unsigned>(2 * limit + 1)) - limit;
  return values;
}

Values filled(std::int64_t rows, std::int64_t columns, Dtype dtype, double value) {
  return {rows, columns, dtype, std::vector<double>(static_cast<std::size_t>(rows * columns), value)};
}

Values nans(std::int64_t rows, std::int64_t columns, Dtype dtype) {
  return filled(rows, columns, dtype, std::numeric_limits<double>::quiet_NaN());
}

Values rows_of(const Values& values, std::int64_t first, std::int64_t count) {
  const auto begin = values.data.begin() + first * values.columns;
  return {count, values.columns, values.dtype, std::vector<double>(begin, begin + count * values.columns)};
}

double rel_l2(const Values& a, const Values& b) {
  REQUIRE(a.rows == b.rows);
  REQUIRE(a.columns == b.columns);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.data.size(); ++i) {
    if (!std::isfinite(a.data[i]) || !std::isfinite(b.data[i])) return std::numeric_limits<double>::infinity();
    difference += (a.data[i] - b.data[i]) * (a.data[i] - b.data[i]);
    norm += b.data[i] * b.data[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

double tolerance(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return 1e-14;  // sums of up to some thousand terms, each rounded to 1.1e-16
    case Dtype::f32:
      return 1e-6;  // the same with 6e-8; sums are in lanes, so that errors grow slowly
    case Dtype::f16:
      return 8e-4;  // one rounding is 4.9e-4 at most and 2.1e-4 on average; three are 1.7 times that
    case Dtype::bf16:
      return 6e-3;  // one rounding is 3.9e-3 at most and 1.7e-3 on average; three are 1.7 times that
    default:
      return 0;
  }
}

OnDevice::OnDevice(device::Ops& ops, const Values& values, std::int64_t gap)
    : ops_(ops),
      buffer_(ops.allocate(static_cast<std::size_t>(values.rows * (values.columns + gap)) * size_of(values.dtype))) {
  all_ = device::Tensor::contiguous(buffer_.data(), values.dtype, values.rows, values.columns + gap);
  tensor_ = all_.column_slice(0, values.columns);
  const Values poison = nans(values.rows, values.columns + gap, values.dtype);
  ops.copy_from_host(all_, bytes_of(poison).data());
  ops.copy_from_host(tensor_, bytes_of(values).data());
}

Values OnDevice::values() const {
  ops_.synchronize();
  std::vector<std::byte> bytes(static_cast<std::size_t>(all_.rows * all_.columns) * size_of(all_.dtype));
  ops_.copy_to_host(bytes.data(), all_);
  const Values all = values_of(bytes.data(), all_.dtype, all_.rows, all_.columns);
  Values values = filled(tensor_.rows, tensor_.columns, tensor_.dtype, 0);
  for (std::int64_t row = 0; row < all.rows; ++row) {
    for (std::int64_t column = 0; column < all.columns; ++column) {
      if (column < values.columns) {
        values.at(row, column) = all.at(row, column);
      } else {
        REQUIRE(std::isnan(all.at(row, column)));  // between two rows
      }
    }
  }
  return values;
}

namespace {

/// Those that we can use, opened. Says once when there are none.
std::vector<std::unique_ptr<device::Ops>> open_gpus() {
  std::vector<std::unique_ptr<device::Ops>> out;
  for (const device::DeviceInfo& gpu : device::gpus()) {
    if (!gpu.is_supported) continue;
    out.push_back(device::open_device(gpu.name, {.cache_folder = {}}));
    constexpr int kOldest = 80;  // whose kernels all GPUs run
    if (gpu.capability > kOldest) {
      out.push_back(device::open_device(gpu.name, {.cache_folder = {}, .newest_capability = kOldest}));
    }
  }
  static bool is_said = false;
  if (out.empty() && !is_said) std::cout << "no CUDA device: CPU only\n";
  is_said = true;
  return out;
}

}  // namespace

std::vector<std::unique_ptr<device::Ops>> devices() {
  const char* const wanted = std::getenv("LAYERPROBE_TEST_DEVICES");
  if (wanted != nullptr && std::string_view(wanted) == "gpu") {
    auto gpus = open_gpus();
    REQUIRE(!gpus.empty());
    return gpus;
  }
  std::vector<std::unique_ptr<device::Ops>> devices;
  devices.push_back(device::cpu_ops());
  for (const device::cpu::Loops* loops : device::cpu::supported_loops()) {
    devices.push_back(device::cpu::cpu_ops_on(*loops, /*native_bf16=*/false, /*threads=*/2));
  }
  for (auto& gpu : open_gpus()) devices.push_back(std::move(gpu));
  return devices;
}

}  // namespace layerprobe::test
