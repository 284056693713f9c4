#pragma once

// What the attention kernels share: which keys a query sees, and what becomes of values that are not finite.

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/element.cuh"

namespace layerprobe::kernels {

/// The kernels: attention_fma.cu for f32 and f64; for f16 and bf16 attention_mma.cu, and attention_wgmma.cu on compute
/// capability 9.0.
void attention_mma(const Attention& args, cudaStream_t stream);
void attention_wgmma(const Attention& args, cudaStream_t stream);
void attention_fma(const Attention& args, cudaStream_t stream);

constexpr std::int32_t kNoWindow = INT32_MAX / 2;  // more than there are tokens, and room to add to it

/// The tensors of one tile and one head as rows of the tile's prompt: token t is at data + t * stride.
template <typename T>
struct TileView {
  const T* query;
  const T* key;
  const T* value;
  T* out;
  std::int32_t first_query;
  std::int32_t length;  // of the prompt
  std::int32_t window;  // how many keys a query sees at most, itself included

  __device__ TileView(const Attention& args, const AttentionTile& tile, std::int32_t head)
      : query(row_of(args.query_states, tile, head, args.head_dim)),
        key(row_of(args.key_states, tile, head / args.group, args.head_dim)),
        value(row_of(args.value_states, tile, head / args.group, args.head_dim)),
        out(const_cast<T*>(row_of(args.out, tile, head, args.head_dim))),
        first_query(tile.first_query),
        length(tile.prompt_length),
        window(args.sliding_window > 0 ? args.sliding_window : kNoWindow) {}

  __device__ bool sees(std::int32_t query_token, std::int32_t key_token) const {
    return key_token <= query_token && query_token - key_token < window;
  }
  __device__ std::int32_t first_seen(std::int32_t query_token) const {
    return query_token >= window ? query_token - window + 1 : 0;
  }

 private:
  __device__ static const T* row_of(const Matrix& matrix, const AttentionTile& tile, std::int32_t head,
                                    std::int32_t head_dim) {
    return static_cast<const T*>(matrix.data) + tile.prompt_begin * matrix.row_stride + head * head_dim;
  }
};

/// A value that is not finite times a weight of 0 is NaN: in a product of tiles a token would see what it does not, a
/// later one. So a kernel whose result is not finite works once more with such values taken as 0, which leaves the bits
/// of all other results as they are, and then this writes what the tokens that do see them get: NaN, or the infinity
/// where all they see is of one sign. A thread takes a column of the head and goes through the keys: slow, and only in
/// runs that are broken anyway. `thread` of `num_threads` that share the queries.
template <typename T>
__device__ void spread_non_finite(const Attention& args, const TileView<T>& tile, std::int32_t first_query,
                                  std::int32_t num_queries, std::int32_t thread, std::int32_t num_threads) {
  const std::int32_t end = min(first_query + num_queries, tile.length);
  for (std::int32_t d = thread; d < args.head_dim; d += num_threads) {
    std::int32_t last_nan = -1, last_plus = -1, last_minus = -1;  // the last key so far that has one
    for (std::int32_t key = tile.first_seen(first_query); key < end; ++key) {
      const Scalar<T> value = value_of(tile.value[key * args.value_states.row_stride + d]);
      if (!is_finite(value)) (value != value ? last_nan : value > 0 ? last_plus : last_minus) = key;
      if (key < first_query) continue;
      const std::int32_t first = tile.first_seen(key);
      const bool plus = last_plus >= first, minus = last_minus >= first;
      T* out = tile.out + key * args.out.row_stride + d;
      if (last_nan >= first || (plus && minus)) {
        *out = element_of<T>(NAN);
      } else if (plus || minus) {
        *out = element_of<T>(plus ? INFINITY : -INFINITY);
      }
    }
  }
}

}  // namespace layerprobe::kernels
