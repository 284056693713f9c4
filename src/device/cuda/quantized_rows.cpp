#include "device/cuda/quantized_rows.h"

namespace layerprobe::device::cuda {

QuantizedRows::QuantizedRows(Context& context, const Source& source, std::span<const std::int64_t> first_rows,
                             const Tensor& room)
    : columns_(source.columns),
      num_blocks_((source.columns + kernels::QuantizeRows::kBlock - 1) / kernels::QuantizeRows::kBlock) {
  std::int64_t padded_rows = 0;
  for (std::size_t part = 0; part < first_rows.size(); ++part) {
    parts_.push_back({.first_row = first_rows[part] - first_rows[0], .first_padded_row = padded_rows});
    if (part + 1 < first_rows.size()) padded_rows += padded(first_rows[part + 1] - first_rows[part]);
  }
  parts_there_ = context.upload(std::span<const kernels::QuantizeRows::Part>(parts_));
  const auto row_bytes = static_cast<std::size_t>(columns_) + static_cast<std::size_t>(num_blocks_) * sizeof(float);
  const std::size_t bytes = static_cast<std::size_t>(padded_rows) * row_bytes;
  const bool has_room = room.data != nullptr && room.is_contiguous() &&
                        static_cast<std::size_t>(room.rows * room.columns) * size_of(room.dtype) >= bytes;
  if (!has_room) own_ = context.allocate(bytes);
  values_ = static_cast<std::uint8_t*>(has_room ? room.data : own_.data());
  factors_ = reinterpret_cast<float*>(values_ + padded_rows * columns_);  // behind sixteens of rows: aligned
  kernels::quantize_rows({.out = values_,
                          .factors = factors_,
                          .x = source.x,
                          .up = source.up,
                          .rows = source.rows,
                          .parts = static_cast<const kernels::QuantizeRows::Part*>(parts_there_.data()),
                          .num_parts = static_cast<std::int64_t>(first_rows.size()) - 1,
                          .padded_rows = padded_rows,
                          .columns = columns_,
                          .dtype = source.dtype},
                         context.stream());
}

}  // namespace layerprobe::device::cuda
