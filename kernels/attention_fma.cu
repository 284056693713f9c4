// Causal attention in f32 and f64 by plain multiplications and additions (no TF32), blockwise with a running maximum
// and sum (Dao 2023, arXiv:2307.08691).
//
// A block of 16 x 16 threads has 64 queries (32 in f64 where heads are wider than 128) of one head and goes through as
// many keys and values at a time, in shared memory: a thread computes 4 x 4 (2 x 2) scores, then its rows' share of the
// output's columns. Bound by the multipliers and the reads of shared memory that feed them. At 1,024 tokens this is 2%
// of a model's arithmetic. Measured on an H100 80GB, 2 prompts of 1,024 tokens, 32 heads of 128, by
// layerprobe_bench_device: 23 TFLOP/s in f32, 12.5 in f64 (8.6 with 32 queries and keys).
//
// Blocks of queries and of keys begin at the prompt's first token, so that a row's bits depend on its prompt alone.
#include "kernels/attention.cuh"
#include "kernels/check.h"
#include "kernels/reduce.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kSide = 16;
constexpr int kThreads = kSide * kSide;

template <typename A>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(A));
  A values[kSize];
};

template <typename A, int kDim>
struct Sizes {
  static constexpr int kSize = Vector<A>::kSize;
  static constexpr int kRows = sizeof(A) == 8 && kDim > 128 ? 32 : 64;  // queries, and keys of a step
  static constexpr int kEach = kRows / kSide;                           // rows of a thread, and its keys
  static constexpr int kVectors = kDim / (kSide * kSize);               // of the output, that a thread has in a row
  static constexpr int kStride = kDim + kSize;  // elements: rows of 16 bytes lie in different banks
  static constexpr int kWeightStride = kRows + kSize;
  static constexpr int kBytes = (2 * kRows * kStride + kRows * kWeightStride) * static_cast<int>(sizeof(A));
};

__device__ float exponential(float x) { return expf(x); }
__device__ double exponential(double x) { return exp(x); }

/// The kSide threads of a row are half a warp.
template <typename A>
__device__ A max_of_row(A value) {
#pragma unroll
  for (int distance = kSide / 2; distance > 0; distance /= 2) {
    const A other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

/// Copies rows of a head from `first` on; zeros beyond the prompt and beyond head_dim.
template <typename A, int kDim>
__device__ void load_rows(A* to, const A* from, std::int64_t row_stride, int first, int length, int head_dim) {
  using Size = Sizes<A, kDim>;
  constexpr int kChunks = kDim / Size::kSize;
#pragma unroll 4
  for (int i = threadIdx.x; i < Size::kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, column = i % kChunks * Size::kSize;
    Vector<A> vector = {};
    if (first + row < length && column < head_dim) {
      vector = *reinterpret_cast<const Vector<A>*>(from + (first + row) * row_stride + column);
    }
    *reinterpret_cast<Vector<A>*>(to + row * Size::kStride + column) = vector;
  }
}

template <typename A, int kDim>
__device__ void zero_non_finite(A* values) {
  for (int i = threadIdx.x; i < Sizes<A, kDim>::kRows * Sizes<A, kDim>::kStride; i += kThreads) {
    if (!is_finite(values[i])) values[i] = 0;
  }
}

template <typename A, int kDim>
struct Result {
  Vector<A> out[Sizes<A, kDim>::kEach][Sizes<A, kDim>::kVectors];  // not yet divided by the sum
  A max[Sizes<A, kDim>::kEach];                                    // of the scaled scores so far
  A sum[Sizes<A, kDim>::kEach];                                    // of this thread's exponentials so far
};

/// All of the tile's keys and values; see spread_non_finite for `clean`.
template <typename A, int kDim>
__device__ void attend(const Attention& args, const TileView<A>& tile, A* shared, bool clean, Result<A, kDim>& result) {
  using Size = Sizes<A, kDim>;
  constexpr int kEach = Size::kEach, kRows = Size::kRows, kSize = Size::kSize;
  A* const queries = shared;
  A* const keys = queries + kRows * Size::kStride;  // then, in their place, the values
  A* const weights = keys + kRows * Size::kStride;
  const int x = threadIdx.x % kSide, row = static_cast<int>(threadIdx.x) / kSide * kEach;
  const auto scaling = static_cast<A>(args.scaling);
  const auto at = [](const A* place) { return *reinterpret_cast<const Vector<A>*>(place); };

#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    result.max[i] = -INFINITY;
    result.sum[i] = 0;
#pragma unroll
    for (int v = 0; v < Size::kVectors; ++v) result.out[i][v] = {};
  }
  load_rows<A, kDim>(queries, tile.query, args.query_states.row_stride, tile.first_query, tile.length, args.head_dim);

  const int end = min(tile.first_query + kRows, tile.length);  // no query sees this key or a later one
  for (int key = tile.first_seen(tile.first_query) / kRows * kRows; key < end; key += kRows) {
    __syncthreads();  // all are done with the last values
    load_rows<A, kDim>(keys, tile.key, args.key_states.row_stride, key, tile.length, args.head_dim);
    __syncthreads();
    A scores[kEach][kEach] = {};  // of the thread's rows, with keys x, x + 16, ...
#pragma unroll 4
    for (int d = 0; d < kDim; d += kSize) {
      Vector<A> query[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) query[i] = at(queries + (row + i) * Size::kStride + d);
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const Vector<A> one = at(keys + (x + j * kSide) * Size::kStride + d);
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int e = 0; e < kSize; ++e) scores[i][j] = fma(query[i].values[e], one.values[e], scores[i][j]);
        }
      }
    }

#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      A max = result.max[i];
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const bool seen = tile.sees(tile.first_query + row + i, key + x + j * kSide);
        scores[i][j] = seen ? scores[i][j] * scaling : -static_cast<A>(INFINITY);
        max = scores[i][j] > max ? scores[i][j] : max;
      }
      max = max_of_row(max);
      const A base = max == -static_cast<A>(INFINITY) ? 0 : max;  // no key seen so far
      const A factor = exponential(result.max[i] - base);
      result.max[i] = max;
      result.sum[i] *= factor;
#pragma unroll
      for (int v = 0; v < Size::kVectors; ++v) {
#pragma unroll
        for (int e = 0; e < kSize; ++e) result.out[i][v].values[e] *= factor;
      }
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const A weight = exponential(scores[i][j] - base);
        result.sum[i] += weight;
        weights[(row + i) * Size::kWeightStride + x + j * kSide] = weight;
      }
    }
    __syncthreads();  // all are done with the keys
    load_rows<A, kDim>(keys, tile.value, args.value_states.row_stride, key, tile.length, args.head_dim);
    __syncthreads();
    if (clean) {
      zero_non_finite<A, kDim>(keys);
      __syncthreads();
    }
#pragma unroll 2
    for (int k = 0; k < kRows; k += kSize) {
      Vector<A> weight[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) weight[i] = at(weights + (row + i) * Size::kWeightStride + k);
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
#pragma unroll
        for (int v = 0; v < Size::kVectors; ++v) {
          const Vector<A> value = at(keys + (k + e) * Size::kStride + (x + v * kSide) * kSize);
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
#pragma unroll
            for (int c = 0; c < kSize; ++c) {
              result.out[i][v].values[c] = fma(weight[i].values[e], value.values[c], result.out[i][v].values[c]);
            }
          }
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const A factor = 1 / team_sum<kSide>(result.sum[i]);
#pragma unroll
    for (int v = 0; v < Size::kVectors; ++v) {
#pragma unroll
      for (int e = 0; e < kSize; ++e) result.out[i][v].values[e] *= factor;
    }
  }
}

template <typename A, int kDim>
__global__ void __launch_bounds__(kThreads) attention_fma_kernel(Attention args) {
  using Size = Sizes<A, kDim>;
  extern __shared__ uint4 shared_memory[];
  A* shared = reinterpret_cast<A*>(shared_memory);
  const TileView<A> tile(args, args.tiles[blockIdx.x], static_cast<std::int32_t>(blockIdx.y));
  const int first_token = tile.first_query + static_cast<int>(threadIdx.x) / kSide * Size::kEach;
  const int first_column = static_cast<int>(threadIdx.x) % kSide * Size::kSize;
  Result<A, kDim> result;
  const auto for_each_vector = [&](auto work) {
#pragma unroll
    for (int i = 0; i < Size::kEach; ++i) {
#pragma unroll
      for (int v = 0; v < Size::kVectors; ++v) {
        const int token = first_token + i, column = first_column + v * kSide * Size::kSize;
        if (token < tile.length && column < args.head_dim) work(token, column, result.out[i][v]);
      }
    }
  };
  bool clean = false;
  while (true) {
    attend<A, kDim>(args, tile, shared, clean, result);
    bool finite = true;
    for_each_vector([&](int, int, const Vector<A>& vector) {
#pragma unroll
      for (int e = 0; e < Size::kSize; ++e) finite = finite && is_finite(vector.values[e]);
    });
    if (!__syncthreads_or(!finite) || clean) break;
    clean = true;
  }
  for_each_vector([&](int token, int column, const Vector<A>& vector) {
    *reinterpret_cast<Vector<A>*>(tile.out + token * args.out.row_stride + column) = vector;
  });
  if (!clean) return;
  __syncthreads();  // what is written next is written over this
  spread_non_finite(args, tile, tile.first_query, Size::kRows, threadIdx.x, kThreads);
}

template <typename A, int kDim>
void launch(const Attention& args, cudaStream_t stream) {
  constexpr int kBytes = Sizes<A, kDim>::kBytes;
  allow_shared_memory(reinterpret_cast<const void*>(&attention_fma_kernel<A, kDim>), kBytes);
  const dim3 blocks(static_cast<unsigned>(args.num_tiles), static_cast<unsigned>(args.num_heads));
  attention_fma_kernel<A, kDim><<<blocks, kThreads, kBytes, stream>>>(args);
}

template <typename A>
void launch_for_head_dim(const Attention& args, cudaStream_t stream) {
  if (args.head_dim <= 64) return launch<A, 64>(args, stream);
  if (args.head_dim <= 128) return launch<A, 128>(args, stream);
  launch<A, 256>(args, stream);
}

}  // namespace

void attention_fma(const Attention& args, cudaStream_t stream) {
  if (args.dtype == Dtype::f64) return launch_for_head_dim<double>(args, stream);
  launch_for_head_dim<float>(args, stream);
}

}  // namespace layerprobe::kernels
