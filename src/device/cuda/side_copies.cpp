#include "device/cuda/side_copies.h"

#include "base/text.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

using kernels::check;

/// From a tensor's first byte to the one behind its last.
std::size_t extent_bytes(const Tensor& x) {
  return static_cast<std::size_t>((x.rows - 1) * x.row_stride + x.columns) * size_of(x.dtype);
}

}  // namespace

SideCopies::SideCopies(Context& context) : context_(context) {
  check(cudaStreamCreateWithFlags(stream_.out(), cudaStreamNonBlocking), text("make a stream on ", context.name()));
}

void SideCopies::follow_operations() {
  if (!is_behind_) return;
  is_behind_ = false;
  const Event queued = context_.record(context_.stream());
  check(cudaStreamWaitEvent(stream(), queued.get()), text("order the work of ", context_.name()));
}

void SideCopies::start(void* host, const Tensor& x) {
  if (x.rows == 0) return;
  follow_operations();
  const std::size_t row_bytes = static_cast<std::size_t>(x.columns) * size_of(x.dtype);
  const auto rows = static_cast<std::size_t>(x.rows);
  const std::string doing = text("copy from ", context_.name());
  if (x.is_contiguous()) {
    check(cudaMemcpyAsync(host, x.data, row_bytes * rows, cudaMemcpyDeviceToHost, stream()), doing);
  } else {
    check(cudaMemcpy2DAsync(host, row_bytes, x.data, static_cast<std::size_t>(x.row_stride) * size_of(x.dtype),
                            row_bytes, rows, cudaMemcpyDeviceToHost, stream()),
          doing);
  }
  reads(x);
}

void SideCopies::start_to_gpu(int receiver, void* out, const Tensor& x) {
  if (x.rows == 0) return;
  follow_operations();
  check(cudaMemcpyPeerAsync(out, receiver, x.data, context_.index(), extent_bytes(x), stream()),
        text("copy from ", context_.name(), " to cuda:", receiver));
  reads(x);
}

Event SideCopies::start_by_nccl(NcclChannel& channel, void* out, const Tensor& x) {
  follow_operations();
  Event arrived = channel.send(out, x.data, x.rows == 0 ? 0 : extent_bytes(x), stream());
  if (x.rows > 0) reads(x);
  return arrived;
}

void SideCopies::reads(const Tensor& x) {
  while (!sources_.empty() && cudaEventQuery(sources_.front().copied.get()) == cudaSuccess) sources_.pop_front();
  const auto* const begin = static_cast<const std::byte*>(x.data);
  sources_.push_back({begin, begin + extent_bytes(x), context_.record(stream())});
}

void SideCopies::before_write(const void* data, std::size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(data);
  const Source* last = nullptr;  // copies are done in order
  for (const Source& source : sources_) {
    if (source.begin < begin + bytes && begin < source.end) last = &source;
  }
  if (last == nullptr) return;
  check(cudaStreamWaitEvent(context_.stream(), last->copied.get()), text("order the work of ", context_.name()));
}

void SideCopies::before_write(const Tensor& out) {
  if (out.rows > 0) before_write(out.data, extent_bytes(out));
}

}  // namespace layerprobe::device::cuda
