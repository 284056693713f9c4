#include "device/cuda/attention.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "device/cuda/aligned.h"
#include "kernels/attention.h"

namespace layerprobe::device::cuda {

using kernels::AttentionTile;

void Attention::cut_into_tiles(std::span<const std::int64_t> cu_seqlens, std::int64_t tile_queries) {
  if (tile_queries == tile_queries_ && std::ranges::equal(cu_seqlens, cu_seqlens_)) return;
  std::vector<AttentionTile> tiles;
  for (std::size_t prompt = 0; prompt + 1 < cu_seqlens.size(); ++prompt) {
    const std::int64_t begin = cu_seqlens[prompt], length = cu_seqlens[prompt + 1] - begin;
    for (std::int64_t query = 0; query < length; query += tile_queries) {
      tiles.push_back({.prompt_begin = static_cast<std::int32_t>(begin),
                       .prompt_length = static_cast<std::int32_t>(length),
                       .first_query = static_cast<std::int32_t>(query)});
    }
  }
  // The longest work first, so that the last blocks to start are short and the multiprocessors end together.
  std::ranges::stable_sort(tiles, std::ranges::greater(), &AttentionTile::first_query);
  tiles_ = context_.upload(std::span<const AttentionTile>(tiles));
  num_tiles_ = static_cast<std::int64_t>(tiles.size());
  cu_seqlens_.assign(cu_seqlens.begin(), cu_seqlens.end());
  tile_queries_ = tile_queries;
}

void Attention::run(const Ops::Attention& args) {
  constexpr std::int64_t kStep = 8;  // elements: 16 bytes in f16 and bf16
  // The kernels know one width: the narrower of keys and values is padded with zeros, which change no score and no
  // other column of a result.
  const std::int64_t widest = std::max(args.head_dim, args.value_head_dim());
  const std::int64_t head_dim = (widest + kStep - 1) / kStep * kStep;
  const std::int64_t num_heads = args.num_heads(), key_value_heads = args.num_key_value_heads();
  if (head_dim > kernels::kMaxHeadDim) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "attention",
                 .what = text("head_dim is ", widest, "; the GPU takes up to ", kernels::kMaxHeadDim),
                 .fix = "use --device-map cpu"});
  }
  if (args.query_states.rows == 0) return;
  expect(args.query_states.rows <= INT32_MAX, "a batch has fewer than 2^31 tokens");
  cut_into_tiles(args.cu_seqlens, kernels::attention_tile_queries(args.out.dtype, static_cast<std::int32_t>(head_dim)));

  const AlignedInput query(context_, args.query_states, num_heads, head_dim);
  const AlignedInput key(context_, args.key_states, key_value_heads, head_dim);
  const AlignedInput value(context_, args.value_states, key_value_heads, head_dim);
  const AlignedOutput out(context_, args.out, num_heads, head_dim);
  const auto matrix_of = [](const auto& aligned) {
    return kernels::Matrix{aligned.tensor().data, aligned.tensor().row_stride};
  };
  kernels::attention(
      {.out = matrix_of(out),
       .query_states = matrix_of(query),
       .key_states = matrix_of(key),
       .value_states = matrix_of(value),
       .tiles = static_cast<const AttentionTile*>(tiles_.data()),
       .num_tiles = static_cast<std::int32_t>(num_tiles_),
       .num_heads = static_cast<std::int32_t>(num_heads),
       .group = static_cast<std::int32_t>(num_heads / key_value_heads),
       .head_dim = static_cast<std::int32_t>(head_dim),
       .scaling = args.scaling,
       .sliding_window = static_cast<std::int32_t>(std::min<std::int64_t>(args.sliding_window, INT32_MAX)),
       .dtype = args.out.dtype,
       .capability = capability_},
      context_.stream());
  out.finish();
}

}  // namespace layerprobe::device::cuda
