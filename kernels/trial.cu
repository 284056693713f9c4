// One element, or four bytes, a thread at a time: neither is in a run's way.
#include "kernels/trial.h"

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/element.cuh"

namespace layerprobe::kernels {
namespace {

constexpr unsigned kThreads = 256;
constexpr std::int64_t kMaxBlocks = 4096;

unsigned blocks_for(std::int64_t count) {
  const std::int64_t blocks = (count + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

/// The mixing step of MurmurHash3 (Appleby, public domain): each bit of the index reaches each bit of the result.
__device__ std::uint32_t mixed(std::uint32_t bits) {
  bits = (bits ^ bits >> 16) * 0x85ebca6bu;
  bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
  return bits ^ bits >> 16;
}

template <typename T>
__global__ void random_values_kernel(T* out, std::int64_t count, std::uint32_t seed) {
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const std::uint32_t bits = mixed(static_cast<std::uint32_t>(i) + mixed(seed + static_cast<std::uint32_t>(i >> 32)));
    out[i] = element_of<T>(static_cast<Scalar<T>>(static_cast<std::int32_t>(bits)) * Scalar<T>(0x1p-31));
  }
}

__global__ void find_difference_kernel(const std::uint32_t* a, const std::uint32_t* b, std::int64_t words,
                                       int* differs) {
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words; i += step) {
    if (a[i] != b[i]) *differs = 1;  // whoever finds one writes the same
  }
}

}  // namespace

void random_values(void* out, std::int64_t count, Dtype dtype, std::uint32_t seed, cudaStream_t stream) {
  if (count == 0) return;  // an empty grid is a launch error
  dispatch(dtype, [&]<typename T>() {
    random_values_kernel<T><<<blocks_for(count), kThreads, 0, stream>>>(static_cast<T*>(out), count, seed);
  });
  check(cudaGetLastError(), "launch random_values");
}

void find_difference(const void* a, const void* b, std::size_t bytes, int* differs, cudaStream_t stream) {
  const auto words = static_cast<std::int64_t>(bytes / 4);
  if (words == 0) return;  // an empty grid is a launch error
  find_difference_kernel<<<blocks_for(words), kThreads, 0, stream>>>(
      static_cast<const std::uint32_t*>(a), static_cast<const std::uint32_t*>(b), words, differs);
  check(cudaGetLastError(), "launch find_difference");
}

}  // namespace layerprobe::kernels
