#pragma once

#include <array>
#include <memory>
#include <vector>

#include "device/cuda/context.h"
#include "device/cuda/nccl.h"
#include "device/ops.h"

namespace layerprobe::device::cuda {

/// Sends from one GPU to another by NCCL: a communicator of the two, and a stream on the receiver that its half runs
/// on. The sender's thread drives both halves.
class NcclChannel : public Channel {
 public:
  /// Throws Error(device) without NCCL, or where it cannot start. Leaves the sender's GPU in use.
  NcclChannel(const Context& sender, const Context& receiver);

  /// What the receiver's half does next waits for what is recorded there.
  cudaStream_t receiving() const { return receiving_.get(); }
  /// out = x once both streams have come so far: the sender's `sending`, and receiving(). Returns that out is there.
  Event send(void* out, const void* x, std::size_t bytes, cudaStream_t sending);

 private:
  const Context &sender_, &receiver_;
  Nccl nccl_;
  Stream receiving_;
  std::vector<std::unique_ptr<void, Nccl::Result (*)(Nccl::Communicator)>> communicators_;  // of the two
};

}  // namespace layerprobe::device::cuda
