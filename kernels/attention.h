#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

/// What one block works on: some queries of one prompt, of one head.
struct AttentionTile {
  std::int32_t prompt_begin;   // the prompt's first token
  std::int32_t prompt_length;  // its tokens
  std::int32_t first_query;    // counted from the prompt's begin
};

struct Attention {
  Matrix out;           // [num_tokens, num_heads * head_dim]; overlaps no input
  Matrix query_states;  // [num_tokens, num_heads * head_dim]
  Matrix key_states;    // [num_tokens, num_heads / group * head_dim]
  Matrix value_states;  // [num_tokens, num_heads / group * head_dim]
  const AttentionTile*
      tiles;  // [num_tiles], on the device; all of attention_tile_queries() queries but a prompt's last
  std::int32_t num_tiles;
  std::int32_t num_heads;
  std::int32_t group;  // query heads that share a key and value head
  std::int32_t head_dim;
  double scaling;
  std::int32_t sliding_window;  // 0: none
  Dtype dtype;                  // of all four
  int capability;               // 90 for kernels of compute capability 9.0, where the GPU has it
};

constexpr std::int32_t kMaxHeadDim = 256;

/// How many queries a tile has.
std::int32_t attention_tile_queries(Dtype dtype, std::int32_t head_dim);

/// Queues causal attention on `stream`. Formula and rounding: device/ops.h. All rows and heads begin at multiples of 16
/// bytes; head_dim is at most kMaxHeadDim. Throws Error(device) if the launch is refused.
void attention(const Attention& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
