#include "device/cuda/fp8_weights.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "kernels/check.h"
#include "kernels/expand.h"

namespace layerprobe::device::cuda {
namespace {

/// The bytes of FP8 as the loader copies bytes: two of them are one number of its own.
StoredValues as_pairs(const StoredValues& values) {
  StoredValues pairs = values;
  pairs.rows = 1;
  pairs.columns = values.rows * values.columns / 2;
  pairs.storage = Storage::bf16;
  pairs.scales.reset();
  return pairs;
}

StoredValues factors_of(const StoredValues& values) {
  const BlockScales& scales = *values.scales;
  return {.rows = scales.rows,
          .columns = scales.columns,
          .storage = scales.storage,
          .file = scales.file,
          .offset = scales.offset,
          .read_values = values.read_values};
}

}  // namespace

bool Fp8Weights::keeps(std::span<const StoredValues> parts) {
  return std::ranges::all_of(parts, [](const StoredValues& part) {
    return part.scales && is_convertible(part.scales->storage) && part.rows * part.columns % 2 == 0;
  });
}

Fp8Weights::Fp8Weights(const Context& context, std::span<const std::vector<StoredValues>> experts, Loader& loader) {
  columns_ = experts[0][0].columns;
  for (const StoredValues& part : experts[0]) {
    const std::int64_t stride = (part.scales->columns + 3) / 4 * 4;
    parts_.push_back({.first_row = rows_,
                      .rows = part.rows,
                      .first_factor = num_factors_,
                      .factor_stride = stride,
                      .scales = *part.scales});
    rows_ += part.rows;
    num_factors_ += part.scales->rows * stride;
  }
  const auto count = static_cast<std::int64_t>(experts.size());
  stored_ = context.allocate(static_cast<std::size_t>(count * rows_ * columns_));
  factors_ = context.allocate(static_cast<std::size_t>(count * num_factors_) * sizeof(float));
  kernels::check(cudaMemsetAsync(factors_.data(), 0, factors_.bytes(), context.stream()), "load weights");
  for (std::int64_t expert = 0; expert < count; ++expert) {
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const StoredValues& values = experts[static_cast<std::size_t>(expert)][i];
      const StoredValues pairs = as_pairs(values), factors = factors_of(values);
      auto* const stored = static_cast<std::byte*>(stored_.data()) + (expert * rows_ + parts_[i].first_row) * columns_;
      auto* const place = static_cast<float*>(factors_.data()) + expert * num_factors_ + parts_[i].first_factor;
      loader.add(Tensor::contiguous(stored, Dtype::bf16, 1, pairs.columns), pairs);
      Tensor places = Tensor::contiguous(place, Dtype::f32, factors.rows, factors.columns);
      places.row_stride = parts_[i].factor_stride;
      loader.add(places, factors);
    }
  }
}

void Fp8Weights::expect_multipliable() const {
  constexpr std::int64_t kBlock = 128, kStep = 16;
  bool is_whole = rows_ % kStep == 0 && columns_ % kStep == 0;
  for (const Part& part : parts_) {
    is_whole = is_whole && part.scales.block_rows == kBlock && part.scales.block_columns == kBlock &&
               part.first_row % kBlock == 0;
  }
  if (is_whole) return;
  throw Error(
      {.kind = ErrorKind::input,
       .where = "--fp8-math w8a8",
       .what = text("a weight of [", rows_, ", ", columns_, "] in ", parts_.size(),
                    " parts: FP8 is multiplied in blocks of 128 x 128, of which only the last part's last may be "
                    "smaller, and by sixteens"),
       .fix = "use --fp8-math dequantize"});
}

void Fp8Weights::expand(void* out, const Form& form, std::int64_t first, std::int64_t count,
                        cudaStream_t stream) const {
  if (form.padded_rows != rows_ || form.padded_columns != columns_) {
    kernels::check(cudaMemsetAsync(out, 0, static_cast<std::size_t>(count) * form.bytes(), stream), "expand FP8");
  }
  for (const Part& part : parts_) {
    kernels::expand_fp8(
        {.out = static_cast<std::byte*>(out) +
                static_cast<std::size_t>(part.first_row * form.padded_columns) * size_of(form.dtype),
         .stored = static_cast<const std::uint8_t*>(stored_.data()) + (first * rows_ + part.first_row) * columns_,
         .factors = static_cast<const float*>(factors_.data()) + first * num_factors_ + part.first_factor,
         .rows = part.rows,
         .columns = columns_,
         .out_stride = form.padded_columns,
         .factor_columns = part.factor_stride,
         .block_rows = part.scales.block_rows,
         .block_columns = part.scales.block_columns,
         .count = count,
         .out_distance = form.padded_rows * form.padded_columns,
         .stored_distance = rows_ * columns_,
         .factor_distance = num_factors_,
         .dtype = form.dtype},
        stream);
  }
}

void load_by_host(Context& context, const Tensor& out, const StoredValues& values) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(values.rows * values.columns) * size_of(out.dtype));
  values.read_values(out.dtype, bytes.data());
  context.copy_from_host(out, bytes.data());
}

}  // namespace layerprobe::device::cuda
