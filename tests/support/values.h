#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "device/ops.h"

namespace layerprobe::test {

/// A matrix on the host, every element a value that `dtype` has.
struct Values {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  Dtype dtype = Dtype::f32;
  std::vector<double> data = {};  // [rows, columns]

  double& at(std::int64_t row, std::int64_t column) { return data[static_cast<std::size_t>(row * columns + column)]; }
  double at(std::int64_t row, std::int64_t column) const {
    return data[static_cast<std::size_t>(row * columns + column)];
  }
  bool operator==(const Values&) const = default;
};

/// value rounded to dtype, to nearest, ties to even.
double rounded(double value, Dtype dtype);

/// The values as their bytes in memory, row-major, and back.
std::vector<std::byte> bytes_of(const Values& values);
Values values_of(const std::byte* bytes, Dtype dtype, std::int64_t rows, std::int64_t columns);

/// From N(0, 1) times `scale`, rounded; the same for one seed everywhere.
Values random(std::int64_t rows, std::int64_t columns, Dtype dtype, std::uint64_t seed, double scale = 1);
/// Integers in [-limit, limit].
Values integers(std::int64_t rows, std::int64_t columns, Dtype dtype, std::uint64_t seed, int limit);
Values filled(std::int64_t rows, std::int64_t columns, Dtype dtype, double value);
/// Poison for results: an element left unwritten stays NaN.
Values nans(std::int64_t rows, std::int64_t columns, Dtype dtype);
Values rows_of(const Values& values, std::int64_t first, std::int64_t count);

/// ||a - b|| / ||b||; infinity where one has a NaN or infinity, 0 where both are 0.
double rel_l2(const Values& a, const Values& b);

/// The largest rel_l2 from the exact formula that an operation may have.
double tolerance(Dtype dtype);

/// Values on a device. Rows may lie apart: `gap` elements of NaN between them, checked to be untouched by values().
class OnDevice {
 public:
  OnDevice(device::Ops& ops, const Values& values, std::int64_t gap = 0);

  device::Tensor tensor() const { return tensor_; }
  Values values() const;

 private:
  device::Ops& ops_;
  device::Buffer buffer_;
  device::Tensor all_;  // with the gaps
  device::Tensor tensor_;
};

/// Every backend and code path that this machine has: the CPU's instruction sets, the fastest first, then each GPU.
/// Where the environment has LAYERPROBE_TEST_DEVICES=gpu, the GPUs alone; that there is none is a failure then.
std::vector<std::unique_ptr<device::Ops>> devices();

}  // namespace layerprobe::test
