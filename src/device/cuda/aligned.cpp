#include "device/cuda/aligned.h"

#include "kernels/copy_padded.h"

namespace layerprobe::device::cuda {
namespace {

bool is_aligned(const Tensor& tensor, std::int64_t columns) {
  return tensor.columns == columns &&
         kernels::are_aligned({{tensor.data, tensor.row_stride}}, columns, size_of(tensor.dtype));
}

void copy(const Context& context, const Tensor& out, const Tensor& from, std::int64_t num_groups) {
  kernels::copy_padded({.out = {out.data, out.row_stride},
                        .from = {from.data, from.row_stride},
                        .num_rows = out.rows,
                        .num_groups = num_groups,
                        .out_columns = out.columns / num_groups,
                        .from_columns = from.columns / num_groups,
                        .dtype = out.dtype},
                       context.stream());
}

}  // namespace

AlignedInput::AlignedInput(const Context& context, const Tensor& tensor, std::int64_t num_groups,
                           std::int64_t group_columns)
    : tensor_(tensor) {
  const std::int64_t columns = num_groups * group_columns;
  if (is_aligned(tensor, columns)) return;
  copy_ = context.allocate(static_cast<std::size_t>(tensor.rows * columns) * size_of(tensor.dtype));
  tensor_ = Tensor::contiguous(copy_.data(), tensor.dtype, tensor.rows, columns);
  copy(context, tensor_, tensor, num_groups);
}

AlignedOutput::AlignedOutput(const Context& context, const Tensor& tensor, std::int64_t num_groups,
                             std::int64_t group_columns)
    : context_(context), place_(tensor), tensor_(tensor), num_groups_(num_groups) {
  const std::int64_t columns = num_groups * group_columns;
  if (is_aligned(tensor, columns)) return;
  copy_ = context.allocate(static_cast<std::size_t>(tensor.rows * columns) * size_of(tensor.dtype));
  tensor_ = Tensor::contiguous(copy_.data(), tensor.dtype, tensor.rows, columns);
}

void AlignedOutput::finish() const {
  if (copy_.data() != nullptr) copy(context_, place_, tensor_, num_groups_);
}

}  // namespace layerprobe::device::cuda
