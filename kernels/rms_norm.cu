// A team of threads norms a group: 256 threads for a layer's row, 16 for a head of it. Each thread keeps the packs it
// squared in registers (and reads those of very long rows a second time), so that a row is read once and written once.
// Bound by memory bandwidth.
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
constexpr int kSmallGroupPacks = 64;  // up to which a small team takes the group
constexpr int kKept = 4;              // packs that a thread keeps: 8,192 bf16 elements in a block

__device__ float square_root(float value) { return sqrtf(value); }
__device__ double square_root(double value) { return sqrt(value); }

template <typename T, bool kAligned, int kTeam, bool kAdds>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNorm args) {
  constexpr std::int64_t kSize = Pack<T>::kSize;
  const std::int64_t group = std::int64_t{blockIdx.x} * (kThreads / kTeam) + threadIdx.x / kTeam;
  const std::int64_t row = group / args.num_groups, place = group % args.num_groups * args.group_size;
  // A team beyond the last group has nothing to read or write, and goes along where its warp sums.
  const std::int64_t columns = row < args.num_tokens ? args.group_size : 0;
  const auto row_of = [&](const Matrix& matrix) {
    return static_cast<T*>(matrix.data) + row * matrix.row_stride + place;
  };
  const T* x = row_of(args.hidden_states);
  const T* added = kAdds ? row_of(args.added) : nullptr;
  T* sum = kAdds ? row_of(args.sum) : nullptr;

  Scalar<T> square_sum = 0;
  const auto squared = [&](std::int64_t column) {
    const std::int64_t count = columns - column;
    Pack<T> value = load<kAligned>(x, column, count);
    if constexpr (kAdds) {
      const Pack<T> other = load<kAligned>(added, column, count);
#pragma unroll
      for (int i = 0; i < kSize; ++i) value.set(i, value[i] + other[i]);
      store<kAligned>(sum, column, count, value);
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) square_sum = fma(value[i], value[i], square_sum);
    return value;
  };
  constexpr std::int64_t kStep = kTeam * kSize;
  const std::int64_t first = threadIdx.x % kTeam * kSize;
  Pack<T> kept[kKept];
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    if (first + i * kStep < columns) kept[i] = squared(first + i * kStep);
  }
  for (std::int64_t column = first + kKept * kStep; column < columns; column += kStep) squared(column);

  const Scalar<T> mean_square = team_sum<kTeam>(square_sum) / static_cast<Scalar<T>>(args.group_size);
  const Scalar<T> scale = 1 / square_root(mean_square + static_cast<Scalar<T>>(args.rms_norm_eps));

  const T* weight = static_cast<const T*>(args.weight);
  T* out = row_of(args.out);
  const auto normed = [&](std::int64_t column, const Pack<T>& value) {
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
  for (std::int64_t column = first + kKept * kStep; column < columns; column += kStep) {
    normed(column, load<kAligned>(kAdds ? sum : x, column, columns - column));  // this thread wrote it
  }
}

template <typename T, bool kAligned>
void launch(const RmsNorm& args, cudaStream_t stream) {
  const bool small = num_packs(args.group_size, sizeof(T)) <= kSmallGroupPacks;
  const std::int64_t groups_a_block = small ? kThreads / kSmallTeam : 1;
  const auto blocks = static_cast<unsigned>((args.num_tokens * args.num_groups + groups_a_block - 1) / groups_a_block);
  const bool adds = args.sum.data != nullptr;
  if (small && adds) rms_norm_kernel<T, kAligned, kSmallTeam, true><<<blocks, kThreads, 0, stream>>>(args);
  if (small && !adds) rms_norm_kernel<T, kAligned, kSmallTeam, false><<<blocks, kThreads, 0, stream>>>(args);
  if (!small && adds) rms_norm_kernel<T, kAligned, kThreads, true><<<blocks, kThreads, 0, stream>>>(args);
  if (!small && !adds) rms_norm_kernel<T, kAligned, kThreads, false><<<blocks, kThreads, 0, stream>>>(args);
}

}  // namespace

void rms_norm(const RmsNorm& args, cudaStream_t stream) {
  if (args.num_tokens == 0) return;  // an empty grid is a launch error
  const std::size_t element_bytes = size_of(args.dtype);
  const Matrix weight{const_cast<void*>(args.weight), 0};
  const bool aligned = are_aligned({args.out, args.hidden_states, weight, args.added, args.sum}, element_bytes) &&
                       (args.num_groups == 1 || static_cast<std::size_t>(args.group_size) * element_bytes % 16 == 0);
  dispatch(args.dtype, aligned, [&]<typename T, bool kAligned>() { launch<T, kAligned>(args, stream); });
  check(cudaGetLastError(), "launch rms_norm");
}

}  // namespace layerprobe::kernels
