#include "device/cuda/nccl_channel.h"

#include <string>

#include "base/text.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {

NcclChannel::NcclChannel(const Context& sender, const Context& receiver) : sender_(sender), receiver_(receiver) {
  receiver.use();
  kernels::check(cudaStreamCreateWithFlags(receiving_.out(), cudaStreamNonBlocking),
                 text("make a stream on ", receiver.name()));
  communicators_ = nccl_.communicators(std::array{sender.index(), receiver.index()});
  sender.use();
}

Event NcclChannel::send(void* out, const void* x, std::size_t bytes, cudaStream_t sending) {
  const std::string doing = text("send from ", sender_.name(), " to ", receiver_.name());
  // The receiver's half would wait for the sender's on a multiprocessor.
  const Event ready = sender_.record(sending);
  kernels::check(cudaStreamWaitEvent(receiving(), ready.get()), doing);
  nccl_.check(nccl_.group_start(), doing);
  nccl_.check(nccl_.send(x, bytes, Nccl::kInt8, 1, communicators_[0].get(), sending), doing);
  nccl_.check(nccl_.receive(out, bytes, Nccl::kInt8, 0, communicators_[1].get(), receiving()), doing);
  nccl_.check(nccl_.group_end(), doing);
  receiver_.use();
  Event arrived = receiver_.record(receiving());
  sender_.use();
  return arrived;
}

}  // namespace layerprobe::device::cuda
