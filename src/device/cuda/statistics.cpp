#include "device/cuda/statistics.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/row_statistics.h"

namespace layerprobe::device::cuda {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{4} << 20;  // of a batch of 8,192 tokens for eight values

Statistics statistics_of(const kernels::RowSums& sums, std::int64_t columns) {
  return {.count = columns,
          .sum = sums.sum,
          .sum_of_squares = sums.sum_of_squares,
          .min = sums.min,
          .max = sums.max,
          .abs_max = sums.abs_max,
          .abs_max_row = sums.abs_max_column < 0 ? -1 : 0,
          .abs_max_column = sums.abs_max_column,
          .nan_count = sums.nan_count,
          .inf_count = sums.inf_count,
          .first_non_finite_row = sums.nan_count + sums.inf_count > 0 ? 0 : -1};
}

}  // namespace

void* StatisticsQueue::reserve(std::size_t bytes) {
  for (Chunk& chunk : chunks_) {
    if (chunk.bytes - chunk.used < bytes) continue;
    chunk.used += bytes;
    return static_cast<std::byte*>(chunk.memory.get()) + chunk.used - bytes;
  }
  Chunk chunk;
  chunk.bytes = std::max(bytes, kChunkBytes);
  chunk.used = bytes;
  kernels::check(cudaMallocHost(chunk.memory.out(), chunk.bytes), "allocate pinned memory");
  chunks_.push_back(std::move(chunk));
  return chunks_.back().memory.get();
}

void StatisticsQueue::add(const Ops::RowStatistics& args) {
  if (args.x.rows == 0) return;
  const std::size_t bytes = args.out.size() * sizeof(kernels::RowSums);
  void* const sums = reserve(bytes);
  const Buffer on_device = context_.allocate(bytes);
  kernels::row_statistics({.out = static_cast<kernels::RowSums*>(on_device.data()),
                           .x = {args.x.data, args.x.row_stride},
                           .num_rows = args.x.rows,
                           .columns = args.x.columns,
                           .dtype = args.x.dtype},
                          context_.stream());
  kernels::check(cudaMemcpyAsync(sums, on_device.data(), bytes, cudaMemcpyDeviceToHost, context_.stream()),
                 "copy statistics");
  waiting_.push_back({args.out, sums, args.x.columns});
}

void StatisticsQueue::deliver() {
  for (const Waiting& waiting : waiting_) {
    const auto* sums = static_cast<const kernels::RowSums*>(waiting.sums);
    for (std::size_t row = 0; row < waiting.out.size(); ++row) {
      waiting.out[row] = statistics_of(sums[row], waiting.columns);
    }
  }
  waiting_.clear();
  for (Chunk& chunk : chunks_) chunk.used = 0;
}

std::size_t StatisticsQueue::waiting_bytes() const {
  std::size_t bytes = 0;
  for (const Chunk& chunk : chunks_) bytes += chunk.used;
  return bytes;
}

}  // namespace layerprobe::device::cuda
