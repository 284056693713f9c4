// Causal attention in f16 and bf16 on tensor cores, by the instructions of compute capability 8.0, blockwise with a
// running maximum and sum (Dao 2023, arXiv:2307.08691).
//
// A block has 128 queries of one head, in shared memory, and goes through the prompt's keys and values 64 at a time; a
// warp has 32 of the queries (16 where heads are wider than 128), so that each 16 x 16 of keys that it reads from
// shared memory is multiplied twice. Values are on their way while scores are computed, the next keys while values are
// multiplied; two blocks on a multiprocessor fill each other's waits. Sums, maxima and the softmax are f32; the weights
// are rounded to the tensors' dtype before they meet the values, not yet divided by their sum, as torch's flash kernels
// do. Bound by the tensor cores.
//
// Blocks of queries and of keys begin at the prompt's first token and a row of a tile is computed by itself, so that a
// row's bits depend on its prompt alone.
#include "kernels/attention.cuh"
#include "kernels/check.h"
#include "kernels/mma.cuh"
#include "kernels/softmax.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kQueries = 128;
constexpr int kKeys = 64;

/// kDim: head_dim rounded up to what the kernel is compiled for; the columns beyond head_dim are zeros.
template <int kDim>
struct Sizes {
  static constexpr int kWarps = kDim <= 128 ? 4 : 8;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTiles = kQueries / (16 * kWarps);  // of 16 queries, that a warp has
  static constexpr int kStride = kDim + 8;                 // elements: eight rows' 16 bytes lie in different banks
  static constexpr int kBytes = (kQueries + 2 * kKeys) * kStride * 2;
};

/// Starts to copy kRows rows of a head from `first` on; zeros beyond the prompt and beyond head_dim.
template <typename T, int kDim, int kRows>
__device__ void load_rows(T* to, const T* from, std::int64_t row_stride, int first, int length, int head_dim) {
  constexpr int kChunks = kDim / 8, kStep = Sizes<kDim>::kThreads / kChunks;
  static_assert(Sizes<kDim>::kThreads % kChunks == 0);
  const int row = static_cast<int>(threadIdx.x) / kChunks, column = static_cast<int>(threadIdx.x) % kChunks * 8;
  const int rows = column < head_dim ? length - first - row : 0;  // how many there are from this thread's first on
  const T* source = from + (first + row) * row_stride + column;
  const std::uint32_t address = shared_address(to + row * Sizes<kDim>::kStride + column);
#pragma unroll 4
  for (int i = 0; i < kRows; i += kStep) {
    copy_async(address + i * Sizes<kDim>::kStride * 2, i < rows ? source : from, i < rows);
    source += kStep * row_stride;
  }
}

/// What a thread holds of its warp's queries: of each tile of 16.
template <int kDim>
struct Result {
  float out[Sizes<kDim>::kTiles][kDim / 8][4];  // not yet divided by the sum
  RowState rows[Sizes<kDim>::kTiles];
};

template <int kDim>
using Scores = float[Sizes<kDim>::kTiles][kKeys / 8][4];

template <typename T, int kDim>
__device__ void multiply_keys(Scores<kDim>& scores, std::uint32_t query_address, std::uint32_t key_address) {
  constexpr int kTiles = Sizes<kDim>::kTiles, kStride = Sizes<kDim>::kStride;
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    std::uint32_t query[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      load_matrices(query[tile], query_address + (tile * 16 * kStride + d) * 2);
    }
#pragma unroll
    for (int key = 0; key < kKeys; key += 16) {
      std::uint32_t keys[4];
      load_matrices(keys, key_address + (key * kStride + d) * 2);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        multiply_add<T>(scores[tile][key / 8], query[tile], keys[0], keys[1]);
        multiply_add<T>(scores[tile][key / 8 + 1], query[tile], keys[2], keys[3]);
      }
    }
  }
}

template <typename T, int kDim>
__device__ void multiply_values(Result<kDim>& result, const Scores<kDim>& weights, std::uint32_t value_address) {
  constexpr int kTiles = Sizes<kDim>::kTiles;
#pragma unroll
  for (int key = 0; key < kKeys; key += 16) {
    std::uint32_t pairs[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) round_weights<T, kKeys>(pairs[tile], weights[tile], key);
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      std::uint32_t values[4];
      load_matrices_transposed(values, value_address + (key * Sizes<kDim>::kStride + d) * 2);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        multiply_add<T>(result.out[tile][d / 8], pairs[tile], values[0], values[1]);
        multiply_add<T>(result.out[tile][d / 8 + 1], pairs[tile], values[2], values[3]);
      }
    }
  }
}

template <typename T, int kDim>
__device__ void zero_non_finite(T* values) {
  for (int i = threadIdx.x; i < kKeys * Sizes<kDim>::kStride; i += Sizes<kDim>::kThreads) {
    if (!is_finite(value_of(values[i]))) values[i] = element_of<T>(0);
  }
}

/// All of the tile's keys and values; see spread_non_finite for `clean`.
template <typename T, int kDim>
__device__ void attend(const Attention& args, const TileView<T>& tile, T* shared, bool clean, Result<kDim>& result) {
  using Size = Sizes<kDim>;
  T* const queries = shared;
  T* const keys = queries + kQueries * Size::kStride;
  T* const values = keys + kKeys * Size::kStride;
  const int lane = threadIdx.x % 32;
  const int warp_query = static_cast<int>(threadIdx.x) / 32 * Size::kTiles * 16;
  const int first_query = tile.first_query + warp_query, last_query = first_query + Size::kTiles * 16 - 1;
  const std::uint32_t query_address =
      shared_address(queries + (warp_query + lane % 16) * Size::kStride + lane / 16 * 8);
  const std::uint32_t key_address =
      shared_address(keys + (lane / 16 * 8 + lane % 8) * Size::kStride + lane / 8 % 2 * 8);
  const std::uint32_t value_address =
      shared_address(values + (lane / 8 % 2 * 8 + lane % 8) * Size::kStride + lane / 16 * 8);

#pragma unroll
  for (int i = 0; i < Size::kTiles; ++i) {
    result.rows[i].clear();
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
      for (int c = 0; c < 4; ++c) result.out[i][d][c] = 0;
    }
  }

  const int end = min(tile.first_query + kQueries, tile.length);  // no query sees this key or a later one
  int key = tile.first_seen(tile.first_query) / kKeys * kKeys;
  load_rows<T, kDim, kQueries>(queries, tile.query, args.query_states.row_stride, tile.first_query, tile.length,
                               args.head_dim);
  load_rows<T, kDim, kKeys>(keys, tile.key, args.key_states.row_stride, key, tile.length, args.head_dim);
  for (; key < end; key += kKeys) {
    const bool sees_some = key <= last_query && key + kKeys > tile.first_seen(first_query);
    const bool sees_all = tile.sees(first_query, key + kKeys - 1) && tile.sees(last_query, key);
    Scores<kDim> scores = {};
    wait_for_copies();
    __syncthreads();  // the keys are here, and all warps are done with the last values
    load_rows<T, kDim, kKeys>(values, tile.value, args.value_states.row_stride, key, tile.length, args.head_dim);
    if (sees_some) multiply_keys<T, kDim>(scores, query_address, key_address);
    wait_for_copies();
    __syncthreads();  // the values are here, and all warps are done with the keys
    if (key + kKeys < end) {
      load_rows<T, kDim, kKeys>(keys, tile.key, args.key_states.row_stride, key + kKeys, tile.length, args.head_dim);
    }
    if (clean) {
      zero_non_finite<T, kDim>(values);
      __syncthreads();
    }
    if (!sees_some) continue;
#pragma unroll
    for (int i = 0; i < Size::kTiles; ++i) {
      if (!sees_all) hide_unseen<T, kKeys>(scores[i], tile, first_query + i * 16, key);
      float factor[2];
      take_exponentials<kKeys>(scores[i], result.rows[i], factor, static_cast<float>(args.scaling) * kLog2E);
      follow_maximum<kDim>(result.out[i], factor);
    }
    multiply_values<T, kDim>(result, scores, value_address);
  }
#pragma unroll
  for (int i = 0; i < Size::kTiles; ++i) divide_by_sum<kDim>(result.out[i], result.rows[i]);
}

template <typename T, int kDim>
__global__ void __launch_bounds__(Sizes<kDim>::kThreads, kDim <= 128 ? 2 : 1) attention_mma_kernel(Attention args) {
  extern __shared__ uint4 shared_memory[];
  T* shared = reinterpret_cast<T*>(shared_memory);
  const TileView<T> tile(args, args.tiles[blockIdx.x], static_cast<std::int32_t>(blockIdx.y));
  const int first_query = tile.first_query + static_cast<int>(threadIdx.x) / 32 * Sizes<kDim>::kTiles * 16;
  Result<kDim> result;
  bool clean = false;
  while (true) {
    attend<T, kDim>(args, tile, shared, clean, result);
    bool finite = true;
#pragma unroll
    for (int i = 0; i < Sizes<kDim>::kTiles; ++i) {
      finite = finite && is_finite<kDim>(result.out[i], tile, first_query + i * 16);
    }
    if (!__syncthreads_or(!finite) || clean) break;
    clean = true;
  }
#pragma unroll
  for (int i = 0; i < Sizes<kDim>::kTiles; ++i) {
    store_rows<kDim>(result.out[i], tile, args.out.row_stride, first_query + i * 16, args.head_dim);
  }
  if (!clean) return;
  __syncthreads();  // what is written next is written over this
  spread_non_finite(args, tile, tile.first_query, kQueries, threadIdx.x, Sizes<kDim>::kThreads);
}

template <typename T, int kDim>
void launch(const Attention& args, cudaStream_t stream) {
  constexpr int kBytes = Sizes<kDim>::kBytes;
  check(cudaFuncSetAttribute(attention_mma_kernel<T, kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "prepare attention");
  const dim3 blocks(static_cast<unsigned>(args.num_tiles), static_cast<unsigned>(args.num_heads));
  attention_mma_kernel<T, kDim><<<blocks, Sizes<kDim>::kThreads, kBytes, stream>>>(args);
}

template <typename T>
void launch_for_head_dim(const Attention& args, cudaStream_t stream) {
  if (args.head_dim <= 64) return launch<T, 64>(args, stream);
  if (args.head_dim <= 128) return launch<T, 128>(args, stream);
  launch<T, 256>(args, stream);
}

}  // namespace

void attention_mma(const Attention& args, cudaStream_t stream) {
  if (args.dtype == Dtype::f16) return launch_for_head_dim<__half>(args, stream);
  launch_for_head_dim<__nv_bfloat16>(args, stream);
}

}  // namespace layerprobe::kernels
