// A thread converts one value: a warp reads and writes neighbours, and a block's scales come from cache. The values of
// a piece wait for the link to the host, which brings some 50 GB/s; this writes many times that.
#include "kernels/convert_values.h"

#include "base/float16.h"
#include "kernels/check.h"
#include "kernels/dispatch.cuh"

namespace layerprobe::kernels {
namespace {

constexpr unsigned kThreads = 256;

using Bytes = const std::uint8_t* __restrict__;

__device__ float f16_at(Bytes at) { return f32_of_f16(static_cast<std::uint16_t>(at[0] | at[1] << 8)); }

/// Bit j of the 32 that q5_0 and q5_1 keep apart, as the value's 16.
__device__ int fifth_bit(Bytes qh, unsigned j) { return (qh[j / 8] >> (j % 8) & 1) << 4; }

/// The 4 bits of value j of 32: those of j and j + 16 share a byte.
__device__ int nibble(Bytes qs, unsigned j) { return j < 16 ? qs[j] & 15 : qs[j - 16] >> 4; }

__device__ float q3_k(Bytes block, unsigned i) {
  const unsigned s = i / 16, l = i % 16;
  Bytes scales = block + 96;
  const int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
  const int high = scales[8 + s % 4] >> (2 * (s / 4)) & 3;
  const float scale = f16_at(block + 108) * static_cast<float>((low | high << 4) - 32);
  const int q = block[32 + 32 * (s / 8) + 16 * (s % 2) + l] >> (s % 8 / 2 * 2) & 3;
  const int h = block[16 * (s % 2) + l] >> (s / 2) & 1;
  return scale * static_cast<float>(q + h * 4 - 4);
}

/// q4_k and q5_k: sub-blocks of 32 values, their 6-bit scales and mins in 12 bytes.
__device__ float q4_or_q5_k(Bytes block, unsigned s, int q) {
  Bytes scales = block + 4;
  const int scale = s < 4 ? scales[s] & 63 : (scales[s + 4] & 15) | scales[s - 4] >> 6 << 4;
  const int min = s < 4 ? scales[s + 4] & 63 : scales[s + 4] >> 4 | scales[s] >> 6 << 4;
  return f16_at(block) * static_cast<float>(scale) * static_cast<float>(q) -
         f16_at(block + 2) * static_cast<float>(min);
}

__device__ float q6_k(Bytes block, unsigned i) {
  const unsigned s = i / 16, l = i % 16, n = s / 8, t = s % 8 / 2;
  const int low = block[64 * n + 32 * (t % 2) + 16 * (s % 2) + l] >> (t / 2 * 4) & 15;
  const int high = block[128 + 32 * n + 16 * (s % 2) + l] >> (2 * t) & 3;
  const float scale = f16_at(block + 208) * static_cast<float>(static_cast<std::int8_t>(block[192 + s]));
  return scale * static_cast<float>((low | high << 4) - 32);
}

/// Value i of a block type. Where the fields lie: weights/dequantize.cpp.
__device__ float block_value(Storage storage, Bytes stored, unsigned i) {
  const unsigned in_block = i % 32, in_super = i % 256, s = in_super / 32;
  switch (storage) {
    case Storage::q4_0: {
      Bytes block = stored + std::size_t{i / 32} * 18;
      return f16_at(block) * static_cast<float>(nibble(block + 2, in_block) - 8);
    }
    case Storage::q4_1: {
      Bytes block = stored + std::size_t{i / 32} * 20;
      return f16_at(block) * static_cast<float>(nibble(block + 4, in_block)) + f16_at(block + 2);
    }
    case Storage::q5_0: {
      Bytes block = stored + std::size_t{i / 32} * 22;
      const int q = nibble(block + 6, in_block) | fifth_bit(block + 2, in_block);
      return f16_at(block) * static_cast<float>(q - 16);
    }
    case Storage::q5_1: {
      Bytes block = stored + std::size_t{i / 32} * 24;
      const int q = nibble(block + 8, in_block) | fifth_bit(block + 4, in_block);
      return f16_at(block) * static_cast<float>(q) + f16_at(block + 2);
    }
    case Storage::q8_0: {
      Bytes block = stored + std::size_t{i / 32} * 34;
      return f16_at(block) * static_cast<float>(static_cast<std::int8_t>(block[2 + in_block]));
    }
    case Storage::q2_k: {
      Bytes block = stored + std::size_t{i / 256} * 84;
      const unsigned sub = in_super / 16;
      const float scale = f16_at(block + 80) * static_cast<float>(block[sub] & 15);
      const float min = f16_at(block + 82) * static_cast<float>(block[sub] >> 4);
      const int q = block[16 + 32 * (sub / 8) + 16 * (sub % 2) + in_super % 16] >> (sub % 8 / 2 * 2) & 3;
      return scale * static_cast<float>(q) - min;
    }
    case Storage::q3_k:
      return q3_k(stored + std::size_t{i / 256} * 110, in_super);
    case Storage::q4_k: {
      Bytes block = stored + std::size_t{i / 256} * 144;
      return q4_or_q5_k(block, s, block[16 + 32 * (s / 2) + in_block] >> (s % 2 * 4) & 15);
    }
    case Storage::q5_k: {
      Bytes block = stored + std::size_t{i / 256} * 176;
      const int q = block[48 + 32 * (s / 2) + in_block] >> (s % 2 * 4) & 15;
      return q4_or_q5_k(block, s, q + (block[16 + in_block] >> s & 1) * 16);
    }
    default:
      return q6_k(stored + std::size_t{i / 256} * 210, in_super);
  }
}

/// From F64 and the integers each is one cast; `is_plain` says whether the storage is one of them.
template <typename To>
__device__ To cast_value(Storage storage, const void* stored, unsigned i, bool& is_plain) {
  is_plain = true;
  switch (storage) {
    case Storage::f64:
      return static_cast<To>(static_cast<const double*>(stored)[i]);
    case Storage::i64:
      return static_cast<To>(static_cast<const std::int64_t*>(stored)[i]);
    case Storage::i32:
      return static_cast<To>(static_cast<const std::int32_t*>(stored)[i]);
    case Storage::i16:
      return static_cast<To>(static_cast<const std::int16_t*>(stored)[i]);
    case Storage::i8:
      return static_cast<To>(static_cast<const std::int8_t*>(stored)[i]);
    case Storage::u8:
      return static_cast<To>(static_cast<const std::uint8_t*>(stored)[i]);
    default:
      is_plain = false;
      return To{};
  }
}

__device__ float f32_value(Storage storage, const void* stored, unsigned i) {
  bool is_plain = false;
  const float value = cast_value<float>(storage, stored, i, is_plain);
  if (is_plain) return value;
  switch (storage) {
    case Storage::f32:
      return static_cast<const float*>(stored)[i];
    case Storage::f16:
      return f32_of_f16(static_cast<const std::uint16_t*>(stored)[i]);
    case Storage::bf16:
      return f32_of_bf16(static_cast<const std::uint16_t*>(stored)[i]);
    default:
      return block_value(storage, static_cast<const std::uint8_t*>(stored), i);
  }
}

template <typename T>
__device__ void put(T* out, float value) {
  if constexpr (std::is_same_v<T, __half>) {
    *reinterpret_cast<std::uint16_t*>(out) = f16_of_f32(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    *reinterpret_cast<std::uint16_t*>(out) = bf16_of_f32(value);
  } else {
    *out = value;
  }
}

template <typename T, bool kSame>
__global__ void convert_values_kernel(ConvertValues args) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= static_cast<unsigned>(args.num_values)) return;
  // The first value's column is below 2^31 and i below 2^30: 32-bit division, which is several times faster.
  const unsigned from_row_begin = static_cast<unsigned>(args.column) + i, columns = static_cast<unsigned>(args.columns);
  std::int64_t row = args.row + from_row_begin / columns;
  if (args.head_dim != 0) {
    const std::int64_t in_head = row % args.head_dim;
    row += in_head / 2 + in_head % 2 * (args.head_dim / 2) - in_head;
  }
  T* const out = static_cast<T*>(args.out) + row * args.row_stride + from_row_begin % columns;
  if constexpr (kSame) {
    *out = static_cast<const T*>(args.stored)[i];
    return;
  } else if constexpr (std::is_same_v<T, double>) {
    bool is_plain = false;
    const double value = cast_value<double>(args.storage, args.stored, i, is_plain);
    *out = is_plain ? value : static_cast<double>(f32_value(args.storage, args.stored, i));
  } else {
    put(out, f32_value(args.storage, args.stored, i));
  }
}

}  // namespace

void convert_values(const ConvertValues& args, cudaStream_t stream) {
  if (args.num_values == 0) return;  // an empty grid is a launch error
  const auto blocks = static_cast<unsigned>((args.num_values + kThreads - 1) / kThreads);
  dispatch(args.dtype, is_same(args.storage, args.dtype),
           [&]<typename T, bool kSame>() { convert_values_kernel<T, kSame><<<blocks, kThreads, 0, stream>>>(args); });
  check(cudaGetLastError(), "launch convert_values");
}

}  // namespace layerprobe::kernels
