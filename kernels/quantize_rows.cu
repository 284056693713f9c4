// Sixteen lanes take a block of a row, each 16 bytes of it. Bound by memory bandwidth: 3 bytes moved for each element.
#include "kernels/quantize_rows.h"

#include <cuda_fp8.h>

#include "kernels/check.h"
#include "kernels/element.cuh"
#include "kernels/pack.cuh"
#include "kernels/silu.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kLanes = 16, kThreads = 256;
constexpr float kLargest = 448;  // of F8_E4M3

/// The part that a padded row belongs to: the last that begins at or before it.
__device__ std::int64_t part_of(const QuantizeRows& args, std::int64_t padded_row) {
  std::int64_t low = 0, high = args.num_parts;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (args.parts[middle].first_padded_row <= padded_row ? low : high) = middle;
  }
  return low;
}

template <typename T>
__device__ Pack<T> pack_at(const QuantizeRows& args, std::int64_t row, std::int64_t column) {
  const std::int64_t from = args.rows == nullptr ? row : args.rows[row];
  const std::int64_t left = args.columns - column;
  Pack<T> pack = load<true>(static_cast<const T*>(args.x.data) + from * args.x.row_stride, column, left);
  if (args.up.data == nullptr) return pack;
  const Pack<T> up = load<true>(static_cast<const T*>(args.up.data) + from * args.up.row_stride, column, left);
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) pack.set(i, rounded<T>(silu(pack[i])) * up[i]);
  return pack;
}

template <typename T>
__global__ void quantize_rows_kernel(QuantizeRows args) {
  static_assert(Pack<T>::kSize * kLanes == QuantizeRows::kBlock);
  const std::int64_t num_blocks = (args.columns + QuantizeRows::kBlock - 1) / QuantizeRows::kBlock;
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  const std::int64_t padded_row = item / num_blocks, block = item % num_blocks;
  const std::int64_t lane = threadIdx.x % kLanes;
  const std::int64_t column = block * QuantizeRows::kBlock + lane * Pack<T>::kSize;
  const bool is_there = padded_row < args.padded_rows;  // all lanes of a warp come to the shuffles
  const std::int64_t at = is_there ? part_of(args, padded_row) : 0;
  const QuantizeRows::Part part = args.parts[at], next = args.parts[at + 1];
  const std::int64_t row_of_part = padded_row - part.first_padded_row, row = part.first_row + row_of_part;
  Pack<T> pack = load<true, T>(nullptr, 0, 0);
  if (is_there && row < next.first_row) pack = pack_at<T>(args, row, column);
  float largest = 0;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) largest = fmaxf(largest, fabsf(pack[i]));
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, lanes));
  }
  if (!is_there) return;
  const float factor = largest / kLargest;
  if (lane == 0) {
    const std::int64_t rows_of_part = next.first_padded_row - part.first_padded_row;
    args.factors[num_blocks * part.first_padded_row + block * rows_of_part + row_of_part] = factor;
  }
  if (column >= args.columns) return;
  alignas(8) std::uint8_t bits[Pack<T>::kSize];
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    const float scaled = largest == 0 ? pack[i] : pack[i] / factor;  // a NaN stays one
    bits[i] = __nv_cvt_float_to_fp8(scaled, __NV_SATFINITE, __NV_E4M3);
  }
  *reinterpret_cast<uint2*>(args.out + padded_row * args.columns + column) = *reinterpret_cast<const uint2*>(bits);
}

}  // namespace

void quantize_rows(const QuantizeRows& args, cudaStream_t stream) {
  if (args.padded_rows == 0) return;  // an empty grid is a launch error
  expect(size_of(args.dtype) == 2 && are_aligned({args.x, args.up}, args.columns, 2),
         "rows of f16 or bf16 are rounded to FP8 by 16 bytes");
  const std::int64_t items = args.padded_rows * ((args.columns + QuantizeRows::kBlock - 1) / QuantizeRows::kBlock);
  constexpr std::int64_t kItems = kThreads / kLanes;
  const auto blocks = static_cast<unsigned>((items + kItems - 1) / kItems);
  if (args.dtype == Dtype::bf16) {
    quantize_rows_kernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    quantize_rows_kernel<__half><<<blocks, kThreads, 0, stream>>>(args);
  }
  check(cudaGetLastError(), "launch quantize_rows");
}

}  // namespace layerprobe::kernels
