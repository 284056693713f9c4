// What a layer computes: each operation checks its arguments and launches a kernel.
#include <algorithm>
#include <optional>
#include <utility>

#include "device/arguments.h"
#include "device/cuda/aligned.h"
#include "device/cuda/cuda_ops.h"
#include "kernels/add.h"
#include "kernels/check.h"
#include "kernels/combine_experts.h"
#include "kernels/embedding.h"
#include "kernels/expand.h"
#include "kernels/expand_key_values.h"
#include "kernels/group_by_expert.h"
#include "kernels/mean_rows.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/route_tokens.h"
#include "kernels/silu_mul.h"

namespace layerprobe::device::cuda {
namespace {

constexpr std::size_t kMostWaitingBytes = std::size_t{64} << 20;  // of statistics, before a call waits for them

}  // namespace

void CudaOps::matmul(const MatMul& args) {
  begin_writing({args.out});
  matmuls_.multiply(args);
}

void CudaOps::embedding(const Embedding& args) {
  check(args);
  begin_writing({args.out});
  const Buffer input_ids = context_.upload(args.input_ids);
  kernels::embedding({.out = matrix_of(args.out),
                      .weight = matrix_of(args.weight),
                      .input_ids = static_cast<const std::int32_t*>(input_ids.data()),
                      .num_tokens = args.out.rows,
                      .hidden_size = args.out.columns,
                      .dtype = args.out.dtype == Dtype::i32 ? Dtype::f32 : args.out.dtype},  // copied as they are
                     context_.stream());
}

void CudaOps::rms_norm(const RmsNorm& args) {
  check(args);
  begin_writing({args.out});
  kernels::rms_norm({.out = matrix_of(args.out),
                     .hidden_states = matrix_of(args.hidden_states),
                     .weight = args.weight.data,
                     .num_tokens = args.out.rows,
                     .num_groups = args.out.columns / args.weight.columns,
                     .group_size = args.weight.columns,
                     .rms_norm_eps = args.rms_norm_eps,
                     .dtype = args.out.dtype},
                    context_.stream());
}

void CudaOps::add_rms_norm(const AddRmsNorm& args) {
  check(args);
  begin_writing({args.sum, args.normed});
  kernels::rms_norm({.out = matrix_of(args.normed),
                     .hidden_states = matrix_of(args.a),
                     .weight = args.weight.data,
                     .num_tokens = args.sum.rows,
                     .num_groups = 1,
                     .group_size = args.sum.columns,
                     .rms_norm_eps = args.rms_norm_eps,
                     .dtype = args.sum.dtype,
                     .added = matrix_of(args.b),
                     .sum = matrix_of(args.sum)},
                    context_.stream());
}

void CudaOps::rope(const Rope& args) {
  check(args);
  begin_writing({args.x});
  kernels::rope({.x = matrix_of(args.x),
                 .cos = matrix_of(args.cos),
                 .sin = matrix_of(args.sin),
                 .num_tokens = args.x.rows,
                 .num_heads = args.x.columns / args.head_dim,
                 .head_dim = args.head_dim,
                 .half = args.cos.columns,
                 .first = args.first,
                 .interleaved = args.interleaved,
                 .dtype = args.x.dtype},
                context_.stream());
}

void CudaOps::attention(const Attention& args) {
  check(args);
  begin_writing({args.out});
  attention_.run(args);
}

void CudaOps::expand_key_values(const ExpandKeyValues& args) {
  check(args);
  begin_writing({args.key_states, args.value_states});
  const std::int64_t key_columns = args.key_states.columns / args.num_heads;
  kernels::expand_key_values({.key_states = matrix_of(args.key_states),
                              .value_states = matrix_of(args.value_states),
                              .kv = matrix_of(args.kv),
                              .k_rot = matrix_of(args.k_rot),
                              .num_tokens = args.kv.rows,
                              .num_heads = args.num_heads,
                              .plain_columns = key_columns - args.k_rot.columns,
                              .rotated_columns = args.k_rot.columns,
                              .value_columns = args.value_states.columns / args.num_heads,
                              .dtype = args.kv.dtype},
                             context_.stream());
}

void CudaOps::silu_mul(const SiluMul& args) {
  check(args);
  begin_writing({args.out});
  kernels::silu_mul({.out = matrix_of(args.out),
                     .gate = matrix_of(args.gate),
                     .up = args.up.data == nullptr ? kernels::Matrix{} : matrix_of(args.up),
                     .num_tokens = args.out.rows,
                     .intermediate_size = args.out.columns,
                     .dtype = args.out.dtype},
                    context_.stream());
}

void CudaOps::add(const Add& args) {
  check(args);
  begin_writing({args.out});
  kernels::add({.out = matrix_of(args.out),
                .a = matrix_of(args.a),
                .b = matrix_of(args.b),
                .num_rows = args.out.rows,
                .columns = args.out.columns,
                .dtype = args.out.dtype},
               context_.stream());
}

void CudaOps::expand(const Expand& args) {
  check(args);
  begin_writing({args.out});
  kernels::expand({.out = matrix_of(args.out),
                   .x = matrix_of(args.x),
                   .num_rows = args.x.rows,
                   .columns = args.x.columns,
                   .dtype = args.x.dtype},
                  context_.stream());
}

void CudaOps::route_tokens(const RouteTokens& args) {
  check(args);
  begin_writing({args.topk_indices, args.topk_weights});
  kernels::route_tokens({.topk_indices = matrix_of(args.topk_indices),
                         .topk_weights = matrix_of(args.topk_weights),
                         .router_logits = matrix_of(args.router_logits),
                         .selection_bias = args.selection_bias.data,
                         .num_tokens = args.router_logits.rows,
                         .num_experts = args.router_logits.columns,
                         .num_choices = args.topk_indices.columns,
                         .is_sigmoid = args.scores == Scores::sigmoid,
                         .normalizes = args.normalizes,
                         .rounds_weights = args.rounds_weights,
                         .num_groups = args.num_groups,
                         .topk_groups = args.topk_groups,
                         .divisor_epsilon = args.divisor_epsilon,
                         .scaling_factor = args.scaling_factor,
                         .dtype = args.router_logits.dtype},
                        context_.stream());
}

// The products need their numbers of rows on the host. While those come and the first product is launched the GPU is
// idle: some microseconds a layer, where the experts of a large batch take milliseconds.
void CudaOps::group_by_expert(const GroupByExpert& args) {
  check(args);
  begin_writing({args.row_of_choice, args.token_of_row});
  const auto num_experts = static_cast<std::int64_t>(args.first_rows.size()) - 1;
  kernels::GroupByExpert call{.row_of_choice = matrix_of(args.row_of_choice),
                              .token_of_row = matrix_of(args.token_of_row),
                              .topk_indices = matrix_of(args.topk_indices),
                              .first_rows = nullptr,
                              .first_rows_on_host = first_rows_on_host(),
                              .tile_counts = nullptr,
                              .num_tokens = args.topk_indices.rows,
                              .num_choices = args.topk_indices.columns,
                              .num_experts = num_experts};
  const Buffer first_rows = context_.allocate(args.first_rows.size() * sizeof(std::int32_t));
  const Buffer tile_counts =
      context_.allocate(static_cast<std::size_t>(call.num_tiles() * num_experts) * sizeof(std::int32_t));
  call.first_rows = static_cast<std::int32_t*>(first_rows.data());
  call.tile_counts = static_cast<std::int32_t*>(tile_counts.data());
  kernels::group_by_expert(call, context_.stream());
  context_.synchronize();
  std::copy_n(call.first_rows_on_host, args.first_rows.size(), args.first_rows.begin());
}

std::int32_t* CudaOps::first_rows_on_host() {
  if (first_rows_on_host_.get() == nullptr) {
    kernels::check(cudaMallocHost(first_rows_on_host_.out(), (kernels::kMostExperts + 1) * sizeof(std::int32_t)),
                   "allocate pinned memory");
  }
  return static_cast<std::int32_t*>(first_rows_on_host_.get());
}

void CudaOps::gather_rows(const GatherRows& args) {
  check(args);
  begin_writing({args.out});
  kernels::embedding({.out = matrix_of(args.out),
                      .weight = matrix_of(args.x),
                      .input_ids = static_cast<const std::int32_t*>(args.rows.data),
                      .num_tokens = args.out.rows,
                      .hidden_size = args.out.columns,
                      .dtype = args.out.dtype},
                     context_.stream());
}

void CudaOps::expert_matmul(const ExpertMatMul& args) {
  begin_writing({args.out});
  matmuls_.multiply_experts(args);
}

void CudaOps::run_experts(const RunExperts& args) {
  check(args);
  begin_writing({args.out, args.inputs, args.gate_up, args.activated});
  if (!matmuls_.run_experts(args)) Ops::run_experts(args);
}

void CudaOps::combine_experts(const CombineExperts& args) {
  check(args);
  begin_writing({args.out});
  kernels::combine_experts({.out = matrix_of(args.out),
                            .expert_outputs = matrix_of(args.expert_outputs),
                            .row_of_choice = matrix_of(args.row_of_choice),
                            .topk_weights = matrix_of(args.topk_weights),
                            .num_tokens = args.out.rows,
                            .num_choices = args.row_of_choice.columns,
                            .hidden_size = args.out.columns,
                            .rounds_products = args.rounds_products,
                            .dtype = args.out.dtype},
                           context_.stream());
}

void CudaOps::append_statistics(const AppendStatistics& args) {
  check(args);
  if (statistics_.waiting_bytes() > kMostWaitingBytes) synchronize();
  context_.use();
  statistics_.add(args);
}

void CudaOps::mean_rows(const MeanRows& args) {
  check(args);
  begin_writing({args.out});
  const Buffer cu_seqlens = context_.upload(args.cu_seqlens);
  kernels::mean_rows({.out = matrix_of(args.out),
                      .x = matrix_of(args.x),
                      .cu_seqlens = static_cast<const std::int64_t*>(cu_seqlens.data()),
                      .num_prompts = args.out.rows,
                      .columns = args.out.columns,
                      .dtype = args.x.dtype},
                     context_.stream());
}

}  // namespace layerprobe::device::cuda
