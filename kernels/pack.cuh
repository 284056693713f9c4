#pragma once

// Rows taken 16 bytes at a time, the widest access there is, and how the packs of many rows are dealt to threads.

#include <cstdint>

#include "kernels/element.cuh"

namespace layerprobe::kernels {

template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
  T values[kSize];

  __device__ Scalar<T> operator[](int i) const { return value_of(values[i]); }
  __device__ void set(int i, Scalar<T> value) { values[i] = element_of<T>(value); }
};

/// The pack that begins at `column`, of which the row has `count` elements from there on: the others are 0. kAligned:
/// rows begin and end at multiples of 16 bytes (are_aligned), so that it has all or none.
template <bool kAligned, typename T>
__device__ Pack<T> load(const T* row, std::int64_t column, std::int64_t count) {
  Pack<T> pack;
  if constexpr (kAligned) {
    *reinterpret_cast<uint4*>(&pack) = count > 0 ? *reinterpret_cast<const uint4*>(row + column) : uint4{};
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) pack.values[i] = i < count ? row[column + i] : element_of<T>(0);
  }
  return pack;
}

template <bool kAligned, typename T>
__device__ void store(T* row, std::int64_t column, std::int64_t count, const Pack<T>& pack) {
  if constexpr (kAligned) {
    if (count > 0) *reinterpret_cast<uint4*>(row + column) = *reinterpret_cast<const uint4*>(&pack);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      if (i < count) row[column + i] = pack.values[i];
    }
  }
}

/// Threads x go along a row, threads y down the rows. Short rows share a block, long ones are walked through.
struct RowLaunch {
  unsigned blocks;
  dim3 threads;

  /// `items` is what a row is cut into, one a thread at a time: packs.
  RowLaunch(std::int64_t rows, std::int64_t items) {
    constexpr unsigned kThreads = 256;  // eight such blocks fill a multiprocessor
    unsigned across = 1;
    while (across < kThreads && across < items) across *= 2;
    threads = dim3(across, kThreads / across);
    blocks = static_cast<unsigned>((rows + threads.y - 1) / threads.y);
  }
};

inline std::int64_t num_packs(std::int64_t columns, std::size_t element_bytes) {
  return (columns * static_cast<std::int64_t>(element_bytes) + 15) / 16;
}

/// This thread's row of a RowLaunch; it may lie beyond the last.
__device__ inline std::int64_t row_of_thread() { return std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y; }

/// Calls work(column, count) for each of this thread's packs of a row: where it begins and how many of the row's
/// elements are left from there on.
template <typename T, typename Work>
__device__ void for_each_pack(std::int64_t columns, Work work) {
  constexpr std::int64_t kSize = Pack<T>::kSize;
  for (std::int64_t column = threadIdx.x * kSize; column < columns; column += blockDim.x * kSize) {
    work(column, columns - column);
  }
}

}  // namespace layerprobe::kernels
