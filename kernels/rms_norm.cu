// A team of threads norms a group: 256 threads for a layer's row, 16 for a head of it. A thread has all of its packs on
// their way before it needs the first and keeps them in registers (those of very long rows it reads a second time), so
// that a row is read once and written once. Bound by memory bandwidth.
//
// A thread's elements and the order of its sum follow from the group's size alone, not from how rows are aligned.
#include "kernels/rms_norm.h"

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/pack.cuh"
#include "kernels/reduce.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kSmallTeam = 16;

__device__ float square_root(float value) { return sqrtf(value); }
__device__ double square_root(double value) { return sqrt(value); }

/// kKept: packs that a thread keeps. Fewer take fewer registers, and leave room for more threads that read.
template <typename T, bool kAligned, int kTeam, int kKept, bool kAdds>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNorm args) {
  constexpr int kSize = Pack<T>::kSize, kStep = kTeam * kSize;
  const unsigned group = blockIdx.x * (kThreads / kTeam) + threadIdx.x / kTeam;
  const unsigned row = group / static_cast<unsigned>(args.num_groups);
  const int group_size = static_cast<int>(args.group_size);
  const std::int64_t place = std::int64_t{group % static_cast<unsigned>(args.num_groups)} * group_size;
  // A team beyond the last group has nothing to read or write, and goes along where its warp sums.
  const int columns = row < args.num_tokens ? group_size : 0;
  const auto row_of = [&](const Matrix& matrix) {
    return static_cast<T*>(matrix.data) + row * matrix.row_stride + place;
  };
  const T* x = row_of(args.hidden_states);
  const T* added = kAdds ? row_of(args.added) : nullptr;
  T* sum = kAdds ? row_of(args.sum) : nullptr;

  Scalar<T> square_sum = 0;
  const auto take = [&](Pack<T>& value, const Pack<T>& other, int column) {
    if constexpr (kAdds) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) value.set(i, value[i] + other[i]);
      store<kAligned>(sum, column, columns - column, value);
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) square_sum = fma(value[i], value[i], square_sum);
  };
  const int first = static_cast<int>(threadIdx.x) % kTeam * kSize;
  Pack<T> kept[kKept], others[kAdds ? kKept : 1];
#pragma unroll
  for (int i = 0; i < kKept; ++i) {  // all on their way before the first is needed; zeros beyond the row
    kept[i] = load<kAligned>(x, first + i * kStep, columns - first - i * kStep);
    if constexpr (kAdds) others[i] = load<kAligned>(added, first + i * kStep, columns - first - i * kStep);
  }
#pragma unroll
  for (int i = 0; i < kKept; ++i) take(kept[i], others[kAdds ? i : 0], first + i * kStep);
  for (int column = first + kKept * kStep; column < columns; column += kStep) {
    Pack<T> value = load<kAligned>(x, column, columns - column);
    take(value, kAdds ? load<kAligned>(added, column, columns - column) : value, column);
  }

  const Scalar<T> mean_square = team_sum<kTeam>(square_sum) / static_cast<Scalar<T>>(group_size);
  const Scalar<T> scale = 1 / square_root(mean_square + static_cast<Scalar<T>>(args.rms_norm_eps));

  const T* weight = static_cast<const T*>(args.weight);
  T* out = row_of(args.out);
  const auto normed = [&](int column, const Pack<T>& value) {
    const Pack<T> factor = load<kAligned>(weight, column, columns - column);
    Pack<T> result;
#pragma unroll
    for (int i = 0; i < kSize; ++i) result.set(i, factor[i] * rounded<T>(value[i] * scale));
    store<kAligned>(out, column, columns - column, result);
  };
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    if (first + i * kStep < columns) normed(first + i * kStep, kept[i]);
  }
  for (int column = first + kKept * kStep; column < columns; column += kStep) {
    normed(column, load<kAligned>(kAdds ? sum : x, column, columns - column));  // this thread wrote it
  }
}

template <typename T, bool kAligned, int kTeam, int kKept>
void launch(const RmsNorm& args, cudaStream_t stream) {
  constexpr std::int64_t kGroups = kThreads / kTeam;  // of a block
  const auto blocks = static_cast<unsigned>((args.num_tokens * args.num_groups + kGroups - 1) / kGroups);
  if (args.sum.data != nullptr) {
    rms_norm_kernel<T, kAligned, kTeam, kKept, true><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    rms_norm_kernel<T, kAligned, kTeam, kKept, false><<<blocks, kThreads, 0, stream>>>(args);
  }
}

}  // namespace

void rms_norm(const RmsNorm& args, cudaStream_t stream) {
  if (args.num_tokens == 0) return;  // an empty grid is a launch error
  expect(args.num_tokens * args.num_groups <= INT32_MAX && args.group_size <= INT32_MAX, "groups can be counted");
  const Matrix weight{const_cast<void*>(args.weight), 0};
  const bool aligned =
      are_aligned({args.out, args.hidden_states, weight, args.added, args.sum}, args.group_size, size_of(args.dtype));
  dispatch(args.dtype, aligned, [&]<typename T, bool kAligned>() {
    const std::int64_t packs = num_packs(args.group_size, sizeof(T));
    if (packs <= kSmallTeam) return launch<T, kAligned, kSmallTeam, 1>(args, stream);
    if (packs <= 4 * kSmallTeam) return launch<T, kAligned, kSmallTeam, 4>(args, stream);
    if (packs <= 2 * kThreads) return launch<T, kAligned, kThreads, 2>(args, stream);
    launch<T, kAligned, kThreads, 4>(args, stream);
  });
  check(cudaGetLastError(), "launch rms_norm");
}

}  // namespace layerprobe::kernels
