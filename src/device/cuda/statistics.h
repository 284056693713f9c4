#pragma once

#include <span>
#include <vector>

#include "device/cuda/context.h"

namespace layerprobe::device::cuda {

/// Statistics on their way from the GPU to the host. One thread at a time.
class StatisticsQueue {
 public:
  explicit StatisticsQueue(Context& context) : context_(context) {}

  /// As Ops::append_statistics, arguments checked.
  void add(const Ops::AppendStatistics& args);
  /// Hands over what was added, once the stream is synchronised.
  void deliver();
  /// Bytes of pinned memory that wait for deliver().
  std::size_t waiting_bytes() const;

 private:
  struct Chunk {
    PinnedMemory memory;
    std::size_t bytes = 0;
    std::size_t used = 0;
  };
  struct Waiting {
    std::span<Statistics> out;
    const void* statistics;
  };
  void* reserve(std::size_t bytes);

  Context& context_;
  std::vector<Chunk> chunks_;  // kept for the next time
  std::vector<Waiting> waiting_;
};

}  // namespace layerprobe::device::cuda
