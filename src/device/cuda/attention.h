#pragma once

#include <vector>

#include "device/cuda/context.h"

namespace layerprobe::device::cuda {

/// Attention on one GPU. One thread at a time.
class Attention {
 public:
  /// `capability`: which GPUs' kernels it uses.
  Attention(Context& context, int capability) : context_(context), capability_(capability) {}

  /// As Ops::attention, arguments checked. Throws Error(usage) when heads are wider than the kernels take.
  void run(const Ops::Attention& args);

 private:
  void cut_into_tiles(std::span<const std::int64_t> cu_seqlens, std::int64_t tile_queries);

  Context& context_;
  const int capability_;
  // Of the last call: a batch's layers all have the same.
  std::vector<std::int64_t> cu_seqlens_;
  std::int64_t tile_queries_ = 0;
  std::int64_t num_tiles_ = 0;
  Buffer tiles_;
};

}  // namespace layerprobe::device::cuda
