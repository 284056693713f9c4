// A thread adds 16 bytes of each side; a row is a block's, or short rows share one. Bound by memory bandwidth: 3
// elements moved for each one added.
#include "kernels/add.h"

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/pack.cuh"

namespace layerprobe::kernels {
namespace {

template <typename T, bool kAligned>
__global__ void add_kernel(Add args) {
  const std::int64_t row = row_of_thread();
  if (row >= args.num_rows) return;
  const T* a = static_cast<const T*>(args.a.data) + row * args.a.row_stride;
  const T* b = static_cast<const T*>(args.b.data) + row * args.b.row_stride;
  T* out = static_cast<T*>(args.out.data) + row * args.out.row_stride;
  for_each_pack<T>(args.columns, [&](std::int64_t column, std::int64_t count) {
    const Pack<T> left = load<kAligned>(a, column, count), right = load<kAligned>(b, column, count);
    Pack<T> sum;
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) sum.set(i, left[i] + right[i]);
    store<kAligned>(out, column, count, sum);
  });
}

}  // namespace

void add(const Add& args, cudaStream_t stream) {
  if (args.num_rows == 0) return;  // an empty grid is a launch error
  const RowLaunch launch(args.num_rows, num_packs(args.columns, size_of(args.dtype)));
  const bool aligned = are_aligned({args.out, args.a, args.b}, args.columns, size_of(args.dtype));
  dispatch(args.dtype, aligned, [&]<typename T, bool kAligned>() {
    add_kernel<T, kAligned><<<launch.blocks, launch.threads, 0, stream>>>(args);
  });
  check(cudaGetLastError(), "launch add");
}

}  // namespace layerprobe::kernels
