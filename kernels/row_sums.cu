// A warp takes a row, so that its 32 lanes are those of base/statistics.h and the tree is the shuffles' own. Squares of
// f32 and narrower are exact in f64, so that a fused product and sum has the same bits; those of f64 are rounded first.
// A sum that is not finite says that an element was not, and the row is gone through again with an eye on each element.
// Bound by memory bandwidth, closely followed by instructions, about eleven an element.
#include "kernels/row_sums.h"

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/element.cuh"
#include "kernels/reduce.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kWarps = 8;

/// Where the largest magnitude is: the first place of it.
template <typename A>
struct Place {
  A magnitude;
  std::int64_t index;  // -1: nowhere yet
  std::int64_t column;

  __device__ void take(const Place& other) {
    const bool first = other.magnitude == magnitude && other.index >= 0 && other.index < index;
    if (other.magnitude > magnitude || first) *this = other;
  }
  __device__ Place from(int distance) const {
    return {__shfl_down_sync(kAllLanes, magnitude, distance), __shfl_down_sync(kAllLanes, index, distance),
            __shfl_down_sync(kAllLanes, column, distance)};
  }
};

/// What a lane knows of its elements of a row.
template <typename A>
struct Lane {
  double sum = 0, sum_of_squares = 0;
  A min = INFINITY, max = -INFINITY;
  A magnitude = -1;  // the largest
  int step = -1;     // at which it came: the element is 32 * step + lane
  int nan_count = 0, inf_count = 0;

  __device__ void add(A value, int at_step) {
    sum += value;
    const double wide = value;
    sum_of_squares = sizeof(A) < sizeof(double) ? fma(wide, wide, sum_of_squares) : sum_of_squares + wide * wide;
    min = fmin(value, min);
    max = fmax(value, max);
    const A of_value = fabs(value);
    if (of_value > magnitude) {
      magnitude = of_value;
      step = at_step;
    }
  }
  /// Elements that are not finite are counted and left out of everything else.
  __device__ void add_any(A value, int at_step) {
    if (is_finite(value)) {
      add(value, at_step);
    } else {
      ++(value != value ? nan_count : inf_count);
    }
  }
};

/// kFinite: the elements are, or the sums will say that they are not.
template <typename T, bool kFinite>
__device__ Lane<Scalar<T>> lane_of_row(const T* x, int columns) {
  constexpr int kAtOnce = 16;  // on their way
  Lane<Scalar<T>> lane;
  const auto add = [&](T element, int step) {
    if constexpr (kFinite) {
      lane.add(value_of(element), step);
    } else {
      lane.add_any(value_of(element), step);
    }
  };
  const int steps = (columns - static_cast<int>(threadIdx.x) + 31) / 32;
  x += threadIdx.x;
  int step = 0;
  for (; step + kAtOnce <= steps; step += kAtOnce) {
    T elements[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) elements[i] = x[(step + i) * 32];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) add(elements[i], step + i);
  }
  for (; step < steps; ++step) add(x[step * 32], step);
  return lane;
}

template <typename T>
__global__ void __launch_bounds__(32 * kWarps) row_sums_kernel(RowStatistics args) {
  using A = Scalar<T>;
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.y;
  if (row >= args.num_rows) return;
  const T* x = static_cast<const T*>(args.x.data) + row * args.x.row_stride;
  Lane<A> lane = lane_of_row<T, true>(x, static_cast<int>(args.columns));
  const bool finite = is_finite(lane.sum) && is_finite(lane.sum_of_squares);
  if (__any_sync(kAllLanes, !finite)) lane = lane_of_row<T, false>(x, static_cast<int>(args.columns));

  Place<A> largest{lane.magnitude, lane.step < 0 ? -1 : std::int64_t{lane.step} * 32 + threadIdx.x, 0};
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    lane.sum += __shfl_down_sync(kAllLanes, lane.sum, distance);
    lane.sum_of_squares += __shfl_down_sync(kAllLanes, lane.sum_of_squares, distance);
    const A other_min = __shfl_down_sync(kAllLanes, lane.min, distance);
    const A other_max = __shfl_down_sync(kAllLanes, lane.max, distance);
    lane.min = other_min < lane.min ? other_min : lane.min;
    lane.max = other_max > lane.max ? other_max : lane.max;
    largest.take(largest.from(distance));
    lane.nan_count += __shfl_down_sync(kAllLanes, lane.nan_count, distance);
    lane.inf_count += __shfl_down_sync(kAllLanes, lane.inf_count, distance);
  }
  if (threadIdx.x != 0) return;
  args.out[row] = {.sum = lane.sum,
                   .sum_of_squares = lane.sum_of_squares,
                   .min = lane.min + 0.0,  // no negative zero, whichever came first
                   .max = lane.max + 0.0,
                   .abs_max = largest.magnitude,
                   .abs_max_column = largest.index,
                   .nan_count = lane.nan_count,
                   .inf_count = lane.inf_count};
}

}  // namespace

void row_sums(const RowStatistics& args, cudaStream_t stream) {
  if (args.num_rows == 0) return;  // an empty grid is a launch error
  const auto blocks = static_cast<unsigned>((args.num_rows + kWarps - 1) / kWarps);
  dispatch(args.dtype, [&]<typename T>() { row_sums_kernel<T><<<blocks, dim3(32, kWarps), 0, stream>>>(args); });
  check(cudaGetLastError(), "launch row_sums");
}

}  // namespace layerprobe::kernels
