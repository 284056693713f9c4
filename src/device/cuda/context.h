#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/handle.h"
#include "device/ops.h"

namespace layerprobe::device::cuda {

using Stream = Handle<cudaStream_t, cudaStreamDestroy>;
using Event = Handle<cudaEvent_t, cudaEventDestroy>;
using PinnedMemory = Handle<void*, cudaFreeHost>;

/// Waits for the event without a core's time; throws Error(device) as kernels::check does. An event made with
/// cudaEventBlockingSync would do that too, but where some dozens of those are pending, to record one more waits for
/// them: captures of several layers on their way to the host held up a GPU for as long as they took.
void wait_asleep(const Event& event, const std::string& doing);

/// One GPU as its operations use it: a stream that all of them are queued on, memory, and the way of small things from
/// the host. One thread at a time; use() first where the calling thread may have used another GPU.
class Context {
 public:
  /// Throws Error(usage) when there is no GPU of that number, Error(device) when there is no driver or the GPU is too
  /// old, Error(resource) when other programs hold its memory.
  explicit Context(int index);

  std::string name() const;  // "cuda:0"
  int index() const { return index_; }
  const std::string& model() const { return model_; }  // "NVIDIA H100 80GB HBM3"
  int capability() const { return capability_; }       // 90 for compute capability 9.0
  cudaStream_t stream() const { return stream_.get(); }

  void use() const;
  void synchronize() const;
  /// An event at the end of what `stream` has been given. wait_asleep() waits for it.
  Event record(cudaStream_t stream) const;
  std::uint64_t free_bytes() const;

  /// As Ops::allocate. Memory comes and goes in the stream's order: what is queued before a buffer's end may use it
  /// still; `before_free` is called before it goes. Buffers end before the context.
  Buffer allocate(std::size_t bytes, std::function<void(void*)> before_free = {}) const;
  /// As Ops::allocate_shared: other GPUs may write to it once they have been given access to this one.
  Buffer allocate_for_peers(std::size_t bytes);
  /// As Ops::memory_use.
  Ops::MemoryUse memory_use() const;
  /// As Ops::allocate_on_host.
  Buffer allocate_on_host(std::size_t bytes) const;

  /// Has the memory that `other` has allocated opened to this GPU, for reading too; false where there is no way.
  bool opens(const Context& other) const;

  /// As Ops::reserve.
  void reserve(std::size_t bytes) const;

  /// Queues the copy of rows to `out`; they lie packed at `host`, which is free again on return.
  void copy_from_host(const Tensor& out, const void* host);
  /// The same for values of any type, into memory of their own.
  template <typename T>
  Buffer upload(std::span<const T> values) {
    Buffer buffer = allocate(values.size_bytes());
    copy_bytes(buffer.data(), values.data(), values.size_bytes());
    return buffer;
  }

 private:
  struct Segment {
    std::size_t used = 0;
    Event copied;  // what was queued from it
  };

  void copy_bytes(void* to, const void* host, std::size_t bytes);
  void* stage(const void* host, std::size_t bytes);

  int index_;
  std::string model_;
  int capability_ = 0;
  Stream stream_;
  PinnedMemory staging_;  // the segments, one after the other
  std::array<Segment, 4> segments_;
  std::size_t segment_ = 0;
  std::atomic<std::uint64_t> peers_bytes_ = 0;  // of allocate_for_peers
};

}  // namespace layerprobe::device::cuda
