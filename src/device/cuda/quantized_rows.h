#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/cuda/aligned.h"
#include "device/cuda/context.h"
#include "kernels/quantize_rows.h"

namespace layerprobe::device::cuda {

/// The inputs of products of FP8: rows rounded to F8_E4M3, in parts that are multiplied each by itself. cuBLASLt takes
/// rows in sixteens, so each part is filled up with zeros.
class QuantizedRows {
 public:
  static constexpr std::int64_t padded(std::int64_t rows) { return (rows + kStep - 1) / kStep * kStep; }

  struct Source {
    kernels::Matrix x, up = {};          // as in kernels::QuantizeRows
    const std::int32_t* rows = nullptr;  // likewise
    std::int64_t columns;
    Dtype dtype;
  };
  static Source source_of(const Tensor& x) { return {.x = matrix_of(x), .columns = x.columns, .dtype = x.dtype}; }
  /// Queues the rounding. The rows of part p are first_rows[p] to first_rows[p + 1], counted from first_rows[0]. They
  /// are put into `room`, which may be without data and outlives this, where it is contiguous and large enough.
  QuantizedRows(Context& context, const Source& source, std::span<const std::int64_t> first_rows,
                const Tensor& room = {});

  /// [padded rows of the part, columns], packed
  void* values(std::size_t part) const { return values_ + parts_[part].first_padded_row * columns_; }
  /// [ceil(columns / 128), padded rows of the part]: cuBLASLt's VEC128_32F
  const float* factors(std::size_t part) const { return factors_ + parts_[part].first_padded_row * num_blocks_; }

 private:
  static constexpr std::int64_t kStep = 16;

  std::int64_t columns_, num_blocks_;
  std::vector<kernels::QuantizeRows::Part> parts_;
  Buffer parts_there_, own_;
  std::uint8_t* values_ = nullptr;
  float* factors_ = nullptr;
};

}  // namespace layerprobe::device::cuda
