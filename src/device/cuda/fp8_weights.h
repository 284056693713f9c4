#pragma once

#include <span>
#include <vector>

#include "device/cuda/loader.h"

namespace layerprobe::device::cuda {

/// Weights of one shape that stay F8_E4M3 in memory, and are expanded for each product or multiplied as they are: that
/// of a layer, or one for each of its experts. One thread at a time.
class Fp8Weights {
 public:
  /// Whether each of the parts, stacked along the rows, is FP8 as we keep it; else it is expanded while it is loaded.
  static bool keeps(std::span<const StoredValues> parts);

  /// `experts`: the parts of each, which keeps() all; queues their loads.
  Fp8Weights(const Context& context, std::span<const std::vector<StoredValues>> experts, Loader& loader);

  /// Throws Error(input) where cuBLASLt multiplies no FP8 of that form.
  void expect_multipliable() const;
  const void* stored(std::int64_t expert) const {
    return static_cast<const std::byte*>(stored_.data()) + expert * rows_ * columns_;
  }
  /// [ceil(rows / 128), ceil(columns / 128)], rows factor_stride() apart: cuBLASLt's BLK128x128_32F.
  const float* factors(std::int64_t expert) const {
    return static_cast<const float*>(factors_.data()) + expert * num_factors_;
  }

  std::size_t bytes() const { return stored_.bytes() + factors_.bytes(); }

  /// How one of them is expanded: with zeros where it is padded.
  struct Form {
    Dtype dtype;
    std::int64_t padded_rows, padded_columns;

    std::size_t bytes() const { return static_cast<std::size_t>(padded_rows * padded_columns) * size_of(dtype); }
  };
  /// Queues on `stream` the expansion of `count` of them from `first` on to `out`, [count, padded rows, padded
  /// columns].
  void expand(void* out, const Form& form, std::int64_t first, std::int64_t count, cudaStream_t stream) const;

 private:
  struct Part {
    std::int64_t first_row;
    std::int64_t rows;
    std::int64_t first_factor;   // in those of one expert
    std::int64_t factor_stride;  // of their rows: a multiple of four
    BlockScales scales;
  };
  std::vector<Part> parts_;
  std::int64_t rows_ = 0, columns_ = 0, num_factors_ = 0;  // of one expert
  Buffer stored_;                                          // [experts, rows, columns]
  Buffer factors_;                                         // [experts, num_factors], f32
};

/// Brings values to the device by the host's own reading, at once: FP8 whose shape no kernel wants.
void load_by_host(Context& context, const Tensor& out, const StoredValues& values);

}  // namespace layerprobe::device::cuda
