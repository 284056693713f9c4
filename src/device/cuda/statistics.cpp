#include "device/cuda/statistics.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/append_statistics.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;  // of 10,000 prompts
constexpr std::size_t kAlignment = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

/// Blocks have sizes of powers of two, by their memory on the device; on the host they need less.
StatisticsQueue::Block StatisticsQueue::free_block(std::size_t device_bytes, std::size_t host_bytes) {
  const std::size_t bytes = std::bit_ceil(device_bytes);
  {
    const std::lock_guard lock(mutex_);
    std::vector<Block>& blocks = free_[bytes];
    const auto fits = std::ranges::find_if(blocks, [&](const Block& block) { return block.host_bytes >= host_bytes; });
    if (fits != blocks.end()) {
      Block block = std::move(*fits);
      blocks.erase(fits);
      return block;
    }
  }
  const std::size_t on_host = std::bit_ceil(aligned(host_bytes));
  if (chunk_bytes_ - chunk_used_ < on_host) {
    chunks_.emplace_back();
    chunk_bytes_ = std::max(on_host, kChunkBytes);
    chunk_used_ = 0;
    kernels::check(cudaMallocHost(chunks_.back().out(), chunk_bytes_), "allocate pinned memory");
  }
  Block block{.bytes = bytes,
              .host_bytes = on_host,
              .on_device = context_.allocate(bytes),
              .on_host = static_cast<std::byte*>(chunks_.back().get()) + chunk_used_};
  chunk_used_ += on_host;
  return block;
}

void StatisticsQueue::add(const Ops::AppendStatistics& args) {
  if (args.x.rows == 0) return;
  const std::size_t out_bytes = args.out.size_bytes();
  Block block = free_block(static_cast<std::size_t>(args.x.rows) * sizeof(kernels::RowSums),
                           out_bytes + args.cu_rows.size_bytes());
  std::memcpy(block.on_host, args.out.data(), out_bytes);
  std::memcpy(block.on_host + out_bytes, args.cu_rows.data(), args.cu_rows.size_bytes());
  const kernels::AppendStatistics call{.out = reinterpret_cast<Statistics*>(block.on_host),
                                       .row_sums = static_cast<kernels::RowSums*>(block.on_device.data()),
                                       .x = {args.x.data, args.x.row_stride},
                                       .cu_rows = reinterpret_cast<const std::int64_t*>(block.on_host + out_bytes),
                                       .num_prompts = static_cast<std::int64_t>(args.out.size()),
                                       .num_rows = args.x.rows,
                                       .columns = args.x.columns,
                                       .dtype = args.x.dtype};
  kernels::sum_rows(call, context_.stream());
  copies_.operations_queued();
  // A prompt's rows are added one after the other, which leaves a GPU idle: the next operations go on beside it.
  copies_.follow_operations();
  kernels::append_rows(call, copies_.stream());
  waiting_.push_back({args.out, std::move(block)});
}

std::vector<StatisticsQueue::Waiting> StatisticsQueue::take() { return std::exchange(waiting_, {}); }

void StatisticsQueue::deliver(std::vector<Waiting> waiting) {
  for (const Waiting& each : waiting) std::memcpy(each.out.data(), each.block.on_host, each.out.size_bytes());
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
