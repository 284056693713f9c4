#include "weights/dequantize.h"

#include <cstring>

#include "base/error.h"
#include "base/float16.h"

namespace layerprobe::weights {
namespace {

float f16_at(const std::uint8_t* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return f32_of_f16(bits);
}

std::uint32_t u32_at(const std::uint8_t* at) {
  std::uint32_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}

// Each function below: one block to its 32 or 256 values. Offsets are the fields' places in ggml-common.h's structs.

void block_q4_0(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = f16_at(block);
  const std::uint8_t* qs = block + 2;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((qs[j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((qs[j] >> 4) - 8);
  }
}

void block_q4_1(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = f16_at(block);
  const float m = f16_at(block + 2);
  const std::uint8_t* qs = block + 4;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(qs[j] & 15) + m;
    out[j + 16] = d * static_cast<float>(qs[j] >> 4) + m;
  }
}

void block_q5_0(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = f16_at(block);
  const std::uint32_t qh = u32_at(block + 2);
  const std::uint8_t* qs = block + 6;
  for (int j = 0; j < 16; ++j) {
    const int low = static_cast<int>((qs[j] & 15u) | (qh >> j << 4 & 16u));
    const int high = static_cast<int>((qs[j] >> 4 & 15u) | (qh >> (j + 16) << 4 & 16u));
    out[j] = d * static_cast<float>(low - 16);
    out[j + 16] = d * static_cast<float>(high - 16);
  }
}

void block_q5_1(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = f16_at(block);
  const float m = f16_at(block + 2);
  const std::uint32_t qh = u32_at(block + 4);
  const std::uint8_t* qs = block + 8;
  for (int j = 0; j < 16; ++j) {
    const int low = static_cast<int>((qs[j] & 15u) | (qh >> j << 4 & 16u));
    const int high = static_cast<int>((qs[j] >> 4 & 15u) | (qh >> (j + 16) << 4 & 16u));
    out[j] = d * static_cast<float>(low) + m;
    out[j + 16] = d * static_cast<float>(high) + m;
  }
}

void block_q8_0(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = f16_at(block);
  const std::uint8_t* qs = block + 2;
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(static_cast<std::int8_t>(qs[j]));
}

void block_q2_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const std::uint8_t* scales = block;
  const std::uint8_t* qs = block + 16;
  const float d = f16_at(block + 80);
  const float dmin = f16_at(block + 82);
  for (int s = 0; s < 16; ++s) {  // sub-blocks of 16: half s/8, bits 2*(s%8/2), bytes 16*(s%2)
    const float scale = d * static_cast<float>(scales[s] & 15);
    const float min = dmin * static_cast<float>(scales[s] >> 4);
    const std::uint8_t* q = qs + 32 * (s / 8) + 16 * (s % 2);
    const int shift = s % 8 / 2 * 2;
    for (int l = 0; l < 16; ++l) out[16 * s + l] = scale * static_cast<float>(q[l] >> shift & 3) - min;
  }
}

void block_q3_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const std::uint8_t* hmask = block;
  const std::uint8_t* qs = block + 32;
  const std::uint8_t* scales = block + 96;
  const float d = f16_at(block + 108);
  for (int s = 0; s < 16; ++s) {
    const int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
    const int high = scales[8 + s % 4] >> (2 * (s / 4)) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const std::uint8_t* q = qs + 32 * (s / 8) + 16 * (s % 2);
    const std::uint8_t* h = hmask + 16 * (s % 2);
    const int shift = s % 8 / 2 * 2;
    const int bit = s / 2;
    for (int l = 0; l < 16; ++l) {
      out[16 * s + l] = scale * static_cast<float>((q[l] >> shift & 3) + (h[l] >> bit & 1) * 4 - 4);
    }
  }
}

/// The 6-bit scale and min of sub-block `s` (of 32 values) in the 12 bytes that q4_k and q5_k share.
struct ScaleMin {
  int scale;
  int min;
};
ScaleMin scale_min_at(const std::uint8_t* scales, int s) {
  if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
  return {(scales[s + 4] & 15) | scales[s - 4] >> 6 << 4, scales[s + 4] >> 4 | scales[s] >> 6 << 4};
}

void block_q4_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = f16_at(block);
  const float dmin = f16_at(block + 2);
  for (int s = 0; s < 8; ++s) {
    const ScaleMin sm = scale_min_at(block + 4, s);
    const float scale = d * static_cast<float>(sm.scale);
    const float min = dmin * static_cast<float>(sm.min);
    const std::uint8_t* q = block + 16 + 32 * (s / 2);
    const int shift = s % 2 * 4;
    for (int l = 0; l < 32; ++l) out[32 * s + l] = scale * static_cast<float>(q[l] >> shift & 15) - min;
  }
}

void block_q5_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = f16_at(block);
  const float dmin = f16_at(block + 2);
  const std::uint8_t* qh = block + 16;
  for (int s = 0; s < 8; ++s) {
    const ScaleMin sm = scale_min_at(block + 4, s);
    const float scale = d * static_cast<float>(sm.scale);
    const float min = dmin * static_cast<float>(sm.min);
    const std::uint8_t* q = block + 48 + 32 * (s / 2);
    const int shift = s % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      out[32 * s + l] = scale * static_cast<float>((q[l] >> shift & 15) + (qh[l] >> s & 1) * 16) - min;
    }
  }
}

void block_q6_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = f16_at(block + 208);
  for (int s = 0; s < 16; ++s) {  // sub-blocks of 16: half n, quarter t of it, bytes 16*(s%2)
    const int n = s / 8;
    const int t = s % 8 / 2;
    const std::uint8_t* ql = block + 64 * n + 32 * (t % 2) + 16 * (s % 2);
    const std::uint8_t* qh = block + 128 + 32 * n + 16 * (s % 2);
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(block[192 + s]));
    const int low_shift = t / 2 * 4;
    const int high_shift = 2 * t;
    for (int l = 0; l < 16; ++l) {
      const int q = (ql[l] >> low_shift & 15) | (qh[l] >> high_shift & 3) << 4;
      out[16 * s + l] = scale * static_cast<float>(q - 32);
    }
  }
}

template <Storage storage, auto block_function>
void each_block(const std::uint8_t* blocks, std::int64_t num_blocks, float* out) {
  const StorageTraits& traits = traits_of(storage);
  for (std::int64_t i = 0; i < num_blocks; ++i) {
    block_function(blocks + i * traits.block_bytes, out + i * traits.block_elements);
  }
}

}  // namespace

void dequantize(Storage storage, const std::uint8_t* blocks, std::int64_t num_blocks, float* out) {
  switch (storage) {
    case Storage::q4_0:
      return each_block<Storage::q4_0, block_q4_0>(blocks, num_blocks, out);
    case Storage::q4_1:
      return each_block<Storage::q4_1, block_q4_1>(blocks, num_blocks, out);
    case Storage::q5_0:
      return each_block<Storage::q5_0, block_q5_0>(blocks, num_blocks, out);
    case Storage::q5_1:
      return each_block<Storage::q5_1, block_q5_1>(blocks, num_blocks, out);
    case Storage::q8_0:
      return each_block<Storage::q8_0, block_q8_0>(blocks, num_blocks, out);
    case Storage::q2_k:
      return each_block<Storage::q2_k, block_q2_k>(blocks, num_blocks, out);
    case Storage::q3_k:
      return each_block<Storage::q3_k, block_q3_k>(blocks, num_blocks, out);
    case Storage::q4_k:
      return each_block<Storage::q4_k, block_q4_k>(blocks, num_blocks, out);
    case Storage::q5_k:
      return each_block<Storage::q5_k, block_q5_k>(blocks, num_blocks, out);
    case Storage::q6_k:
      return each_block<Storage::q6_k, block_q6_k>(blocks, num_blocks, out);
    default:
      expect(false, "dequantize is given a block type");
  }
}

}  // namespace layerprobe::weights
