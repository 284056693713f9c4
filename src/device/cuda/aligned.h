#pragma once

#include "device/cuda/context.h"
#include "kernels/matrix.h"

namespace layerprobe::device::cuda {

/// As kernels take it.
inline kernels::Matrix matrix_of(const Tensor& tensor) { return {tensor.data, tensor.row_stride}; }

/// A tensor as kernels for products and attention want it: rows at multiples of 16 bytes, and each of its `num_groups`
/// groups of columns `group_columns` wide. Itself where it is so, as in every real model; else a copy padded with
/// zeros.
class AlignedInput {
 public:
  AlignedInput(const Context& context, const Tensor& tensor, std::int64_t num_groups, std::int64_t group_columns);

  const Tensor& tensor() const { return tensor_; }

 private:
  Buffer copy_;
  Tensor tensor_;
};

/// The same for a result, which finish() brings to its place.
class AlignedOutput {
 public:
  AlignedOutput(const Context& context, const Tensor& tensor, std::int64_t num_groups, std::int64_t group_columns);

  const Tensor& tensor() const { return tensor_; }
  void finish() const;

 private:
  const Context& context_;
  Tensor place_;
  Buffer copy_;
  Tensor tensor_;
  std::int64_t num_groups_;
};

}  // namespace layerprobe::device::cuda
