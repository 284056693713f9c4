// A thread takes 16 values of a row: 16 bytes of FP8 and twice that of bf16. Bound by memory bandwidth: 3 bytes moved
// for a value of bf16.
#include "kernels/expand.h"

#include <cuda_fp8.h>

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/pack.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kAtOnce = 16;  // values

template <typename T>
__global__ void expand_kernel(Expand args) {
  const std::int64_t row = row_of_thread();
  if (row >= args.num_rows) return;
  const T* x = static_cast<const T*>(args.x.data) + row * args.x.row_stride;
  float* out = static_cast<float*>(args.out.data) + row * args.out.row_stride;
  for (std::int64_t column = threadIdx.x; column < args.columns; column += blockDim.x)
    out[column] = value_of(x[column]);
}

__device__ float value_of_e4m3(std::uint8_t bits) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3)));  // f16 has all of its values
}

/// kAligned: blocks and rows are whole 16s of values.
template <typename T, bool kAligned>
__global__ void expand_fp8_kernel(ExpandFp8 args) {
  using A = Scalar<T>;
  const std::int64_t row = row_of_thread(), matrix = blockIdx.y;
  if (row >= args.rows) return;
  const std::uint8_t* stored = args.stored + matrix * args.stored_distance + row * args.columns;
  const float* factors = args.factors + matrix * args.factor_distance + row / args.block_rows * args.factor_columns;
  T* out = static_cast<T*>(args.out) + matrix * args.out_distance + row * args.out_stride;
  const int columns = static_cast<int>(args.columns), block_columns = static_cast<int>(args.block_columns);
  for (int column = static_cast<int>(threadIdx.x) * kAtOnce; column < columns;
       column += static_cast<int>(blockDim.x) * kAtOnce) {
    if constexpr (kAligned) {
      const A factor = factors[column / block_columns];
      alignas(16) std::uint8_t bits[kAtOnce];
      *reinterpret_cast<uint4*>(bits) = *reinterpret_cast<const uint4*>(stored + column);
      constexpr int kSize = Pack<T>::kSize;
#pragma unroll
      for (int first = 0; first < kAtOnce; first += kSize) {
        Pack<T> pack;
#pragma unroll
        for (int i = 0; i < kSize; ++i) pack.set(i, A{value_of_e4m3(bits[first + i])} * factor);
        *reinterpret_cast<uint4*>(out + column + first) = *reinterpret_cast<const uint4*>(&pack);
      }
    } else {
      for (int c = column; c < columns && c < column + kAtOnce; ++c) {
        out[c] = element_of<T>(A{value_of_e4m3(stored[c])} * A{factors[c / block_columns]});
      }
    }
  }
}

}  // namespace

void expand(const Expand& args, cudaStream_t stream) {
  if (args.num_rows == 0) return;  // an empty grid is a launch error
  const RowLaunch launch(args.num_rows, args.columns);
  dispatch(args.dtype, [&]<typename T>() { expand_kernel<T><<<launch.blocks, launch.threads, 0, stream>>>(args); });
  check(cudaGetLastError(), "launch expand");
}

void expand_fp8(const ExpandFp8& args, cudaStream_t stream) {
  if (args.rows == 0 || args.count == 0) return;  // an empty grid is a launch error
  const RowLaunch launch(args.rows, (args.columns + kAtOnce - 1) / kAtOnce);
  const dim3 blocks(launch.blocks, static_cast<unsigned>(args.count));
  const auto is_whole = [](std::int64_t count) { return count % kAtOnce == 0; };
  const bool aligned = is_whole(args.columns) && is_whole(args.block_columns) && is_whole(args.out_stride) &&
                       is_whole(args.out_distance) && is_whole(args.stored_distance) &&
                       reinterpret_cast<std::uintptr_t>(args.stored) % 16 == 0 &&
                       reinterpret_cast<std::uintptr_t>(args.out) % 16 == 0;
  dispatch(args.dtype, aligned, [&]<typename T, bool kAligned>() {
    expand_fp8_kernel<T, kAligned><<<blocks, launch.threads, 0, stream>>>(args);
  });
  check(cudaGetLastError(), "launch expand_fp8");
}

}  // namespace layerprobe::kernels
