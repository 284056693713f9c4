#pragma once

#include <deque>

#include "device/cuda/context.h"
#include "device/cuda/nccl_channel.h"

namespace layerprobe::device::cuda {

/// Copies from one GPU, to the host or to another GPU, that go on beside its operations, on a stream of their own. One
/// thread at a time.
class SideCopies {
 public:
  explicit SideCopies(Context& context);

  cudaStream_t stream() const { return stream_.get(); }
  /// To be called when the operations' stream has been given something.
  void operations_queued() { is_behind_ = true; }
  /// Lets what this stream does next wait for all that the operations' stream has been given.
  void follow_operations();

  /// As Ops::start_copy_to_host, arguments checked.
  void start(void* host, const Tensor& x);
  /// As Ops::send, arguments checked, to the GPU of that number.
  void start_to_gpu(int receiver, void* out, const Tensor& x);
  /// The same by NCCL. Returns that `out` is there.
  Event start_by_nccl(NcclChannel& channel, void* out, const Tensor& x);
  /// Whether anything was begun of which it is not known that it has ended.
  bool is_busy() const { return !sources_.empty(); }
  /// Lets what the operations' stream does next wait for the copies that still read these bytes, if any.
  void before_write(const void* data, std::size_t bytes);
  void before_write(const Tensor& out);

 private:
  /// Bytes that a copy reads, until `copied`.
  struct Source {
    const std::byte* begin;
    const std::byte* end;
    Event copied;
  };

  /// What has been begun last reads the tensor.
  void reads(const Tensor& x);

  Context& context_;
  Stream stream_;
  bool is_behind_ = false;      // an event costs the operations' stream a microsecond or two: none without need
  std::deque<Source> sources_;  // oldest first
};

}  // namespace layerprobe::device::cuda
