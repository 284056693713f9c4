#pragma once

#include <functional>
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
  /// As Ops::finish_loads.
  void finish(const std::function<void(std::uint64_t bytes)>& read);

 private:
  Context& context_;
  std::vector<QueuedLoad> queued_;
};

}  // namespace layerprobe::device::cuda
