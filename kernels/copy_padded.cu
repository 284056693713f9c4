// A thread copies an element at a time. For shapes that no real model has (widths that are no multiple of 16 bytes),
// so that the kernels for products and attention need not know them: simple, and not fast.
#include "kernels/copy_padded.h"

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/pack.cuh"

namespace layerprobe::kernels {
namespace {

template <typename T>
__global__ void copy_padded_kernel(CopyPadded args) {
  const std::int64_t row = row_of_thread();
  if (row >= args.num_rows) return;
  const T* from = static_cast<const T*>(args.from.data) + row * args.from.row_stride;
  T* out = static_cast<T*>(args.out.data) + row * args.out.row_stride;
  for (std::int64_t column = threadIdx.x; column < args.num_groups * args.out_columns; column += blockDim.x) {
    const std::int64_t group = column / args.out_columns, place = column % args.out_columns;
    out[column] = place < args.from_columns ? from[group * args.from_columns + place] : element_of<T>(0);
  }
}

}  // namespace

void copy_padded(const CopyPadded& args, cudaStream_t stream) {
  if (args.num_rows == 0) return;  // an empty grid is a launch error
  const RowLaunch launch(args.num_rows, args.num_groups * args.out_columns);
  dispatch(args.dtype,
           [&]<typename T>() { copy_padded_kernel<T><<<launch.blocks, launch.threads, 0, stream>>>(args); });
  check(cudaGetLastError(), "launch copy_padded");
}

}  // namespace layerprobe::kernels
