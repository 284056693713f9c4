#pragma once

#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "device/cuda/side_copies.h"

namespace layerprobe::device::cuda {

/// Statistics on their way from the GPU to the host.
class StatisticsQueue {
 public:
  /// Both outlive this.
  StatisticsQueue(Context& context, SideCopies& copies) : context_(context), copies_(copies) {}

  /// As Ops::append_statistics, arguments checked. One thread at a time.
  void add(const Ops::AppendStatistics& args);

  /// Memory of the sums of one call's rows, on the GPU and pinned on the host; used again once they are delivered.
  struct Block {
    std::size_t bytes = 0;
    Buffer on_device;
    void* on_host = nullptr;
  };
  struct Waiting {
    std::span<Statistics> out;
    std::vector<std::int64_t> cu_rows;
    std::int64_t columns = 0;
    Block block;
  };
  /// What was added since the last call. The caller delivers it once the copies' stream has come to this moment.
  std::vector<Waiting> take();
  /// Adds the rows, in order, to the statistics, and takes the blocks back. Any thread. On the host, since a sum in
  /// order leaves a GPU idle and keeps the next product from starting on all of it.
  void deliver(std::vector<Waiting> waiting);
  void discard(std::vector<Waiting> waiting);

  /// Memory of what was added and not taken.
  std::size_t waiting_bytes() const;

 private:
  Block free_block(std::size_t bytes);

  Context& context_;
  SideCopies& copies_;
  std::vector<Waiting> waiting_;
  std::vector<Buffer> chunks_;  // the blocks' memory on the host
  std::size_t chunk_used_ = 0, chunk_bytes_ = 0;
  std::mutex mutex_;  // of the free ones
  std::map<std::size_t, std::vector<Block>> free_;
};

}  // namespace layerprobe::device::cuda
