#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "device/cuda/context.h"
#include "device/load_plan.h"

namespace layerprobe::device::cuda {

/// Brings values from files to the GPU: threads read pieces into pinned memory, from where they are copied to their
/// places, or to a kernel that converts them. One thread at a time.
class Loader {
 public:
  explicit Loader(Context& context) : context_(context) {}

  /// As Ops::load, arguments checked.
  void add(const Tensor& out, const StoredValues& values);
  /// As Ops::start_loads.
  std::unique_ptr<Loads> start();
  /// As Ops::start_copies, where this GPU has been opened the donor's memory.
  std::unique_ptr<Loads> start_copies(const Loader& donor);

  /// One reading thread's means: pinned rooms, and a stream that what is in them leaves by.
  struct Means {
    static constexpr std::size_t kRooms = 2;  // at most: one is filled while the other is copied from

    Buffer pages;
    Stream stream;
    std::array<Event, kRooms> is_free;  // of each room, once it has been copied from
  };
  /// Pinned memory takes long to make: what a loading had serves the next. Any thread.
  Means take_means(std::size_t bytes);
  void give_back(Means means);

 private:
  Context& context_;
  std::vector<QueuedLoad> queued_;
  std::vector<Tensor> places_;  // of what was started last
  std::mutex mutex_;            // of the means that nobody has
  std::vector<Means> means_;
};

}  // namespace layerprobe::device::cuda
