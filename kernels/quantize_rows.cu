// A warp takes a block of a row, a lane four of its columns. Bound by memory bandwidth: 3 bytes moved for each element.
#include "kernels/quantize_rows.h"

#include <cuda_fp8.h>

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/element.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kWarp = 32, kWarps = 8, kColumns = 4;
constexpr float kLargest = 448;  // of F8_E4M3
static_assert(kWarp * kColumns == QuantizeRows::kBlock);

template <typename T>
__global__ void quantize_rows_kernel(QuantizeRows args) {
  const std::int64_t num_blocks = (args.columns + QuantizeRows::kBlock - 1) / QuantizeRows::kBlock;
  const std::int64_t warp = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (warp >= args.padded_rows * num_blocks) return;
  const std::int64_t row = warp / num_blocks, block = warp % num_blocks;
  const std::int64_t column = block * QuantizeRows::kBlock + threadIdx.x % kWarp * kColumns;
  const bool is_there = column < args.columns;
  float values[kColumns] = {};
  if (is_there && row < args.num_rows) {
    const T* const x = static_cast<const T*>(args.x.data) + row * args.x.row_stride + column;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) values[i] = value_of(x[i]);
  }
  float largest = 0;
#pragma unroll
  for (const float value : values) largest = fmaxf(largest, fabsf(value));
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, lanes));
  }
  const float factor = largest / kLargest;
  if (threadIdx.x % kWarp == 0) args.factors[block * args.padded_rows + row] = factor;
  if (!is_there) return;
  alignas(4) std::uint8_t bits[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const float scaled = largest == 0 ? values[i] : values[i] / factor;  // a NaN stays one
    bits[i] = __nv_cvt_float_to_fp8(scaled, __NV_SATFINITE, __NV_E4M3);
  }
  *reinterpret_cast<std::uint32_t*>(args.out + row * args.columns + column) =
      *reinterpret_cast<const std::uint32_t*>(bits);
}

}  // namespace

void quantize_rows(const QuantizeRows& args, cudaStream_t stream) {
  if (args.padded_rows == 0) return;  // an empty grid is a launch error
  expect(args.columns % kColumns == 0 && size_of(args.dtype) == 2, "rows of f16 or bf16 are rounded to FP8 by fours");
  const std::int64_t warps = args.padded_rows * ((args.columns + QuantizeRows::kBlock - 1) / QuantizeRows::kBlock);
  const auto blocks = static_cast<unsigned>((warps + kWarps - 1) / kWarps);
  if (args.dtype == Dtype::bf16) {
    quantize_rows_kernel<__nv_bfloat16><<<blocks, kWarps * kWarp, 0, stream>>>(args);
  } else {
    quantize_rows_kernel<__half><<<blocks, kWarps * kWarp, 0, stream>>>(args);
  }
  check(cudaGetLastError(), "launch quantize_rows");
}

}  // namespace layerprobe::kernels
