#include "device/cuda/statistics.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/append_statistics.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;  // of 12,000 prompts

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

void StatisticsQueue::add(const Ops::AppendStatistics& args) {
  if (args.x.rows == 0) return;
  const Buffer out = context_.upload(std::span<const Statistics>(args.out));
  const Buffer cu_rows = context_.upload(args.cu_rows);
  const Buffer row_sums = context_.allocate(static_cast<std::size_t>(args.x.rows) * sizeof(kernels::RowSums));
  kernels::append_statistics({.out = static_cast<Statistics*>(out.data()),
                              .row_sums = static_cast<kernels::RowSums*>(row_sums.data()),
                              .x = {args.x.data, args.x.row_stride},
                              .cu_rows = static_cast<const std::int64_t*>(cu_rows.data()),
                              .num_prompts = static_cast<std::int64_t>(args.out.size()),
                              .num_rows = args.x.rows,
                              .columns = args.x.columns,
                              .dtype = args.x.dtype},
                             context_.stream());
  void* const statistics = reserve(args.out.size_bytes());
  kernels::check(
      cudaMemcpyAsync(statistics, out.data(), args.out.size_bytes(), cudaMemcpyDeviceToHost, context_.stream()),
      "copy statistics");
  waiting_.push_back({args.out, statistics});
}

void StatisticsQueue::deliver() {
  for (const Waiting& waiting : waiting_) {
    std::memcpy(waiting.out.data(), waiting.statistics, waiting.out.size_bytes());
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
