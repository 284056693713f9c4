// A thread copies 16 bytes at a time; a token's row is a block's, or short rows share one. Bound by memory bandwidth:
// 2 elements moved for each one written.
#include "kernels/embedding.h"

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/pack.cuh"

namespace layerprobe::kernels {
namespace {

template <typename T, bool kAligned>
__global__ void embedding_kernel(Embedding args) {
  const std::int64_t row = row_of_thread();
  if (row >= args.num_tokens) return;
  const T* from = static_cast<const T*>(args.weight.data) + args.input_ids[row] * args.weight.row_stride;
  T* out = static_cast<T*>(args.out.data) + row * args.out.row_stride;
  for_each_pack<T>(args.hidden_size, [&](std::int64_t column, std::int64_t count) {
    store<kAligned>(out, column, count, load<kAligned>(from, column, count));
  });
}

}  // namespace

void embedding(const Embedding& args, cudaStream_t stream) {
  if (args.num_tokens == 0) return;  // an empty grid is a launch error
  const RowLaunch launch(args.num_tokens, num_packs(args.hidden_size, size_of(args.dtype)));
  const bool aligned = are_aligned({args.out, args.weight}, args.hidden_size, size_of(args.dtype));
  dispatch(args.dtype, aligned, [&]<typename T, bool kAligned>() {
    embedding_kernel<T, kAligned><<<launch.blocks, launch.threads, 0, stream>>>(args);
  });
  check(cudaGetLastError(), "launch embedding");
}

}  // namespace layerprobe::kernels
