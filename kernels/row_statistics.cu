// A warp takes a row, so that its 32 lanes are those of base/statistics.h and the tree is the shuffles' own. Squares of
// f32 and narrower are exact in f64, so that a fused product and sum has the same bits; those of f64 are rounded first.
// Memory bandwidth and instructions bind about alike: an element a lane at a time, eight of them on their way.
#include "kernels/row_statistics.h"

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/element.cuh"
#include "kernels/reduce.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kWarps = 8;

template <typename A>
struct Place {
  A magnitude;  // -1: none yet
  std::int64_t column;

  /// The larger of two, and of equals the one that comes first.
  __device__ void take(Place other) {
    if (other.magnitude > magnitude || (other.magnitude == magnitude && other.column < column)) *this = other;
  }
};

template <typename T>
__global__ void row_statistics_kernel(RowStatistics args) {
  using A = Scalar<T>;
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.y;
  if (row >= args.num_rows) return;
  const T* x = static_cast<const T*>(args.x.data) + row * args.x.row_stride;

  double sum = 0, sum_of_squares = 0;
  A min = INFINITY, max = -INFINITY;
  Place<A> largest{-1, -1};
  int nan_count = 0, inf_count = 0;
#pragma unroll 8
  for (std::int64_t column = threadIdx.x; column < args.columns; column += 32) {
    const A value = value_of(x[column]);
    const bool finite = is_finite(value);
    const double term = finite ? value : 0;  // adding 0 changes no sum
    sum += term;
    sum_of_squares = sizeof(T) < sizeof(double) ? fma(term, term, sum_of_squares) : sum_of_squares + term * term;
    min = finite && value < min ? value : min;
    max = finite && value > max ? value : max;
    const A magnitude = finite ? fabs(value) : -1;
    if (magnitude > largest.magnitude) largest = {magnitude, column};
    nan_count += value != value;
    inf_count += !finite && value == value;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(kAllLanes, sum, distance);
    sum_of_squares += __shfl_down_sync(kAllLanes, sum_of_squares, distance);
    const A other_min = __shfl_down_sync(kAllLanes, min, distance);
    const A other_max = __shfl_down_sync(kAllLanes, max, distance);
    min = other_min < min ? other_min : min;
    max = other_max > max ? other_max : max;
    largest.take({__shfl_down_sync(kAllLanes, largest.magnitude, distance),
                  __shfl_down_sync(kAllLanes, largest.column, distance)});
    nan_count += __shfl_down_sync(kAllLanes, nan_count, distance);
    inf_count += __shfl_down_sync(kAllLanes, inf_count, distance);
  }
  if (threadIdx.x != 0) return;
  args.out[row] = {.sum = sum,
                   .sum_of_squares = sum_of_squares,
                   .min = min + 0.0,  // no negative zero, whichever came first
                   .max = max + 0.0,
                   .abs_max = largest.magnitude,
                   .abs_max_column = largest.column,
                   .nan_count = nan_count,
                   .inf_count = inf_count};
}

}  // namespace

void row_statistics(const RowStatistics& args, cudaStream_t stream) {
  if (args.num_rows == 0) return;  // an empty grid is a launch error
  const auto blocks = static_cast<unsigned>((args.num_rows + kWarps - 1) / kWarps);
  dispatch(args.dtype, [&]<typename T>() { row_statistics_kernel<T><<<blocks, dim3(32, kWarps), 0, stream>>>(args); });
  check(cudaGetLastError(), "launch row_statistics");
}

}  // namespace layerprobe::kernels
