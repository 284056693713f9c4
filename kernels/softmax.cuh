#pragma once

// The softmax between the two products of attention on tensor cores, for the 16 rows of scores that a warp holds as
// both mma.sync and wgmma leave them: lane l has, of each 8 columns, columns 2 * (l % 4) and the next of rows l / 4
// (elements 0 and 1) and l / 4 + 8 (elements 2 and 3).

#include <cstdint>

#include "kernels/attention.cuh"
#include "kernels/mma.cuh"
#include "kernels/reduce.cuh"

namespace layerprobe::kernels {

constexpr float kLog2E = 1.44269504088896340736f;

/// What a lane knows of its two rows.
struct RowState {
  float max[2];  // of the scores so far
  float sum[2];  // of the lane's exponentials so far

  __device__ void clear() {
    max[0] = max[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }
};

/// Scores of keys that a query does not see become -infinity. The first query and key are those of the first row and
/// column.
template <typename T, int kKeys>
__device__ void hide_unseen(float (&scores)[kKeys / 8][4], const TileView<T>& tile, int first_query, int first_key) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // counted from the lane's first column: the last that its row sees, the first
    const int last = first_query + lane / 4 + half * 8 - first_key - lane % 4 * 2, first = last - tile.window + 1;
#pragma unroll
    for (int k = 0; k < kKeys / 8; ++k) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& score = scores[k][2 * half + c];
        score = k * 8 + c <= last && k * 8 + c >= first ? score : -INFINITY;
      }
    }
  }
}

/// The scores become the exponentials of (score - maximum) * scaling, by powers of two: `scale` is scaling * log2(e).
/// What was summed so far, and the output, have to be multiplied by `factor`; the sum is.
template <int kKeys>
__device__ void take_exponentials(float (&scores)[kKeys / 8][4], RowState& rows, float (&factor)[2], float scale) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = rows.max[half];
#pragma unroll
    for (int k = 0; k < kKeys / 8; ++k) max = fmaxf(max, fmaxf(scores[k][2 * half], scores[k][2 * half + 1]));
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 2));
    const float base = max == -INFINITY ? 0 : max;  // no key seen so far
    factor[half] = exp2_fast((rows.max[half] - base) * scale);
    rows.max[half] = max;
    float sums[2] = {};  // two, because one would wait for itself
#pragma unroll
    for (int k = 0; k < kKeys / 8; ++k) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        float& score = scores[k][2 * half + column];
        score = exp2_fast(fmaf(score, scale, -base * scale));
        sums[column] += score;
      }
    }
    rows.sum[half] = fmaf(rows.sum[half], factor[half], sums[0] + sums[1]);
  }
}

template <int kDim>
__device__ void multiply_rows(float (&out)[kDim / 8][4], const float (&factor)[2]) {
#pragma unroll
  for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
    for (int c = 0; c < 4; ++c) out[d][c] *= factor[c / 2];
  }
}

/// The same where a factor of any lane's changes a bit: 1 does not, and is what most have.
template <int kDim>
__device__ void follow_maximum(float (&out)[kDim / 8][4], const float (&factor)[2]) {
  if (__any_sync(kAllLanes, factor[0] != 1 || factor[1] != 1)) multiply_rows<kDim>(out, factor);
}

/// Divides the output by the sums of all four lanes of a row. Once, at the end.
template <int kDim>
__device__ void divide_by_sum(float (&out)[kDim / 8][4], const RowState& rows) {
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    factor[half] = __frcp_rn(sum);
  }
  multiply_rows<kDim>(out, factor);
}

/// Sixteen columns of exponentials, rounded, as the left side of the product with 16 values.
template <typename T, int kKeys>
__device__ void round_weights(std::uint32_t (&pairs)[4], const float (&weights)[kKeys / 8][4], int first_key) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float(&four)[4] = weights[first_key / 8 + i / 2];
    pairs[i] = pair_of<T>(four[i % 2 * 2], four[i % 2 * 2 + 1]);
  }
}

/// Calls work(token, column, first, second) for each pair of neighbours in the output that is the prompt's and the
/// head's. `first_query` is the first of the 16 rows.
template <int kDim, typename T, typename Work>
__device__ void for_each_pair(const float (&out)[kDim / 8][4], const TileView<T>& tile, int first_query, int head_dim,
                              Work work) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = first_query + lane / 4 + half * 8;
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
      const int column = d * 8 + lane % 4 * 2;
      if (token < tile.length && column < head_dim) work(token, column, out[d][2 * half], out[d][2 * half + 1]);
    }
  }
}

/// Whether the output of the rows that are the prompt's is finite: columns beyond the head's are, or none is.
template <int kDim, typename T>
__device__ bool is_finite(const float (&out)[kDim / 8][4], const TileView<T>& tile, int first_query) {
  bool finite = true;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float zero = 0;
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
      for (int c = 0; c < 2; ++c) zero = fmaf(out[d][2 * half + c], 0.0f, zero);
    }
    const int token = first_query + static_cast<int>(threadIdx.x) % 32 / 4 + half * 8;
    finite = finite && (token >= tile.length || zero == 0);
  }
  return finite;
}

template <int kDim, typename T>
__device__ void store_rows(const float (&out)[kDim / 8][4], const TileView<T>& tile, std::int64_t row_stride,
                           int first_query, int head_dim) {
  for_each_pair<kDim>(out, tile, first_query, head_dim, [&](int token, int column, float a, float b) {
    *reinterpret_cast<std::uint32_t*>(tile.out + token * row_stride + column) = pair_of<T>(a, b);
  });
}

}  // namespace layerprobe::kernels
