#include "device/cuda/statistics.h"

#include <algorithm>
#include <bit>

#include "kernels/check.h"
#include "kernels/row_sums.h"

namespace layerprobe::device::cuda {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{4} << 20;  // of 60,000 rows

}  // namespace

/// Blocks have sizes of powers of two.
StatisticsQueue::Block StatisticsQueue::free_block(std::size_t bytes) {
  bytes = std::bit_ceil(bytes);
  {
    const std::lock_guard lock(mutex_);
    if (std::vector<Block>& blocks = free_[bytes]; !blocks.empty()) {
      Block block = std::move(blocks.back());
      blocks.pop_back();
      return block;
    }
  }
  if (chunk_bytes_ - chunk_used_ < bytes) {
    chunk_bytes_ = std::max(bytes, kChunkBytes);
    chunk_used_ = 0;
    chunks_.push_back(context_.allocate_on_host(chunk_bytes_));
  }
  Block block{.bytes = bytes,
              .on_device = context_.allocate(bytes),
              .on_host = static_cast<std::byte*>(chunks_.back().data()) + chunk_used_};
  chunk_used_ += bytes;
  return block;
}

void StatisticsQueue::add(const Ops::AppendStatistics& args) {
  if (args.x.rows == 0) return;
  const std::size_t bytes = static_cast<std::size_t>(args.x.rows) * sizeof(RowSums);
  Block block = free_block(bytes);
  kernels::row_sums({.out = static_cast<RowSums*>(block.on_device.data()),
                     .x = {args.x.data, args.x.row_stride},
                     .num_rows = args.x.rows,
                     .columns = args.x.columns,
                     .dtype = args.x.dtype},
                    context_.stream());
  copies_.operations_queued();
  copies_.follow_operations();
  kernels::check(
      cudaMemcpyAsync(block.on_host, block.on_device.data(), bytes, cudaMemcpyDeviceToHost, copies_.stream()),
      "copy statistics");
  waiting_.push_back({args.out, {args.cu_rows.begin(), args.cu_rows.end()}, args.x.columns, std::move(block)});
}

std::vector<StatisticsQueue::Waiting> StatisticsQueue::take() { return std::exchange(waiting_, {}); }

void StatisticsQueue::deliver(std::vector<Waiting> waiting) {
  for (const Waiting& each : waiting) {
    const auto* const sums = static_cast<const RowSums*>(each.block.on_host);
    for (std::size_t prompt = 0; prompt < each.out.size(); ++prompt) {
      for (std::int64_t row = each.cu_rows[prompt]; row < each.cu_rows[prompt + 1]; ++row) {
        each.out[prompt].append(sums[row], each.columns);
      }
    }
  }
  discard(std::move(waiting));
}

void StatisticsQueue::discard(std::vector<Waiting> waiting) {
  const std::lock_guard lock(mutex_);
  for (Waiting& each : waiting) free_[each.block.bytes].push_back(std::move(each.block));
}

std::size_t StatisticsQueue::waiting_bytes() const {
  std::size_t bytes = 0;
  for (const Waiting& waiting : waiting_) bytes += waiting.block.bytes;
  return bytes;
}

}  // namespace layerprobe::device::cuda
