// A thread takes 16 bytes of a token's row and reads them from the row of each of its choices in turn; a row is a
// block's, or short rows share one. Bound by memory bandwidth: num_choices + 1 elements moved for each one made.
#include "kernels/combine_experts.h"

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/pack.cuh"

namespace layerprobe::kernels {
namespace {

template <typename T, bool kAligned>
__global__ void combine_experts_kernel(CombineExperts args) {
  using A = Scalar<T>;
  const std::int64_t token = row_of_thread();
  if (token >= args.num_tokens) return;
  const T* outputs = static_cast<const T*>(args.expert_outputs.data);
  const auto* rows = static_cast<const std::int32_t*>(args.row_of_choice.data) + token * args.row_of_choice.row_stride;
  const A* weights = static_cast<const A*>(args.topk_weights.data) + token * args.topk_weights.row_stride;
  T* out = static_cast<T*>(args.out.data) + token * args.out.row_stride;
  for_each_pack<T>(args.hidden_size, [&](std::int64_t column, std::int64_t count) {
    A sums[Pack<T>::kSize] = {};
#pragma unroll 4
    for (std::int64_t j = 0; j < args.num_choices; ++j) {
      const Pack<T> output = load<kAligned>(outputs + rows[j] * args.expert_outputs.row_stride, column, count);
      const A weight = weights[j];
#pragma unroll
      for (int i = 0; i < Pack<T>::kSize; ++i) {
        const A product = output[i] * weight;
        sums[i] += args.rounds_products ? rounded<T>(product) : product;
      }
    }
    Pack<T> sum;
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) sum.set(i, sums[i]);
    store<kAligned>(out, column, count, sum);
  });
}

}  // namespace

void combine_experts(const CombineExperts& args, cudaStream_t stream) {
  if (args.num_tokens == 0) return;  // an empty grid is a launch error
  const RowLaunch launch(args.num_tokens, num_packs(args.hidden_size, size_of(args.dtype)));
  const bool aligned = are_aligned({args.out, args.expert_outputs}, args.hidden_size, size_of(args.dtype));
  dispatch(args.dtype, aligned, [&]<typename T, bool kAligned>() {
    combine_experts_kernel<T, kAligned><<<launch.blocks, launch.threads, 0, stream>>>(args);
  });
  check(cudaGetLastError(), "launch combine_experts");
}

}  // namespace layerprobe::kernels
