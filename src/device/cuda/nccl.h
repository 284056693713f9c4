#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/backends.h"
#include "device/cuda/library.h"

namespace layerprobe::device::cuda {

/// NCCL 2 (libnccl.so.2), opened at run time: the functions that we call, declared as its nccl.h has them, so that the
/// program builds without it.
class Nccl {
 public:
  using Communicator = void*;  // ncclComm_t
  using Result = int;          // ncclResult_t
  static constexpr int kInt8 = 0, kFloat32 = 7, kSum = 0;

  /// Throws Error(device) when it is not found.
  Nccl();

  /// Of the library that was found: "2.28.9".
  std::string version() const;
  /// A communicator of each GPU, in their order; they end before the GPUs' streams do.
  std::vector<std::unique_ptr<void, Result (*)(Communicator)>> communicators(std::span<const int> gpus) const;

  Result (*all_reduce)(const void* send, void* receive, std::size_t count, int type, int operation, Communicator,
                       cudaStream_t);
  Result (*send)(const void* x, std::size_t count, int type, int peer, Communicator, cudaStream_t);
  Result (*receive)(void* out, std::size_t count, int type, int peer, Communicator, cudaStream_t);  // ncclRecv
  Result (*group_start)();
  Result (*group_end)();
  Result (*abandon)(Communicator);  // ncclCommAbort

  /// Throws Error(device) unless `result` is success. `doing` as in kernels/check.h.
  void check(Result result, std::string_view doing) const;

 private:
  Library library_;
  Result (*get_version_)(int* version);
  Result (*init_all_)(Communicator* out, int count, const int* gpus);
  Result (*destroy_)(Communicator);
  const char* (*error_string_)(Result);
};

/// As device::all_reduce.
AllReduce all_reduce(std::span<const int> gpus, std::size_t bytes);

/// As device::cuda_libraries.
CudaLibraries libraries();

}  // namespace layerprobe::device::cuda
