// Products of a layer's experts.
#include <algorithm>
#include <optional>

#include "base/error.h"
#include "device/arguments.h"
#include "device/cuda/aligned.h"
#include "device/cuda/matmul.h"
#include "device/cuda/quantized_rows.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

constexpr std::size_t kExpandedBytes = std::size_t{32} << 20;  // of FP8 weights in one group, unless one is larger

/// The rows of expert i of a call, counted from the first expert's first.
struct ExpertRows {
  std::int64_t begin, count;
};
ExpertRows rows_of(std::span<const std::int64_t> first_rows, std::int64_t expert) {
  const auto at = static_cast<std::size_t>(expert);
  return {.begin = first_rows[at] - first_rows[0], .count = first_rows[at + 1] - first_rows[at]};
}

}  // namespace

/// All experts lie in one piece.
struct CudaExpertWeights : ExpertWeights {
  std::int64_t num_experts() const override { return count; }
  std::int64_t in_features() const override { return shape.in_features; }
  std::int64_t out_features() const override { return shape.out_features; }
  std::size_t bytes() const override { return fp8 ? fp8->bytes() : weights.bytes(); }

  Ops::MatMulShape shape;  // of each
  std::int64_t count = 0;
  Buffer weights;                 // [num_experts, padded out_features, padded in_features], or
  std::optional<Fp8Weights> fp8;  // kept as they are stored
};

std::unique_ptr<ExpertWeights> MatMuls::expert_weights(const Ops::ExpertWeightsParts& parts, Loader& loader) {
  auto weights = std::make_unique<CudaExpertWeights>();
  weights->count = static_cast<std::int64_t>(parts.experts.size());
  std::int64_t out_features = 0;
  for (const StoredValues& part : parts.experts[0]) out_features += part.rows;
  weights->shape = {.in_features = parts.experts[0][0].columns,
                    .out_features = out_features,
                    .dtype = parts.dtype,
                    .has_bias = false};
  const std::int64_t in = padded_features(weights->shape.in_features), out = padded_features(out_features);
  if (std::ranges::all_of(parts.experts, [](const auto& expert) { return Fp8Weights::keeps(expert); })) {
    weights->fp8.emplace(context_, parts.experts, loader);
    if (multiplies_fp8_) weights->fp8->expect_multipliable();
    weights->shape.multiplies_fp8 = multiplies_fp8_;
    return weights;
  }
  weights->weights = context_.allocate(static_cast<std::size_t>(weights->count * out * in) * size_of(parts.dtype));
  if (in != weights->shape.in_features || out != out_features) {
    kernels::check(cudaMemsetAsync(weights->weights.data(), 0, weights->weights.bytes(), context_.stream()),
                   "load weights");
  }
  const Tensor all = Tensor::contiguous(weights->weights.data(), parts.dtype, weights->count * out, in);
  for (std::int64_t expert = 0; expert < weights->count; ++expert) {
    std::int64_t row = expert * out;
    for (const StoredValues& part : parts.experts[static_cast<std::size_t>(expert)]) {
      add(all.row_slice(row, part.rows).column_slice(0, part.columns), part, loader);
      row += part.rows;
    }
  }
  return weights;
}

void MatMuls::multiply_experts(const Ops::ExpertMatMul& args) {
  const auto* weights = dynamic_cast<const CudaExpertWeights*>(&args.weight);
  expect(weights != nullptr, "experts' weights are multiplied on the device that made them");
  const Ops::MatMulShape& shape = weights->shape;
  check(args, shape.dtype);
  if (args.x.rows == 0) return;
  const AlignedInput x(context_, args.x, 1, padded_features(shape.in_features));
  const AlignedOutput out(context_, args.out, 1, padded_features(shape.out_features));
  if (shape.multiplies_fp8) {
    const QuantizedRows quantized(context_, QuantizedRows::source_of(x.tensor()), args.first_rows);
    multiply_quantized(*weights, args.first_expert, args.first_rows, quantized, out.tensor());
  } else {
    multiply_expanded(*weights, args.first_expert, args.first_rows, x.tensor(), out.tensor());
  }
  out.finish();
}

bool MatMuls::run_experts(const Ops::RunExperts& args) {
  const auto* gate_up_proj = dynamic_cast<const CudaExpertWeights*>(&args.gate_up_proj);
  const auto* down_proj = dynamic_cast<const CudaExpertWeights*>(&args.down_proj);
  expect(gate_up_proj != nullptr && down_proj != nullptr, "experts run on the device that made their weights");
  const std::int64_t width = args.activated.columns;
  const Tensor gate = args.gate_up.column_slice(0, width), up = args.gate_up.column_slice(width, width);
  const auto is_aligned = [](const Tensor& tensor) {
    return kernels::are_aligned({matrix_of(tensor)}, tensor.columns, size_of(tensor.dtype));
  };
  if (!gate_up_proj->shape.multiplies_fp8 || !down_proj->shape.multiplies_fp8) return false;
  if (!is_aligned(args.x) || !is_aligned(gate) || !is_aligned(up) || !is_aligned(args.out)) return false;
  if (args.out.rows == 0) return true;
  QuantizedRows::Source source = QuantizedRows::source_of(args.x);
  source.rows = static_cast<const std::int32_t*>(args.token_of_row.data);
  const QuantizedRows inputs(context_, source, args.first_rows, args.inputs);
  multiply_quantized(*gate_up_proj, args.first_expert, args.first_rows, inputs, args.gate_up);
  source = QuantizedRows::source_of(gate);
  source.up = matrix_of(up);
  const QuantizedRows activated(context_, source, args.first_rows, args.activated);
  multiply_quantized(*down_proj, args.first_expert, args.first_rows, activated, args.out);
  return true;
}

// One product after the other, on one stream: from a thousand rows an expert on each fills the GPU.
void MatMuls::multiply_expanded(const CudaExpertWeights& weights, std::int64_t first_expert,
                                std::span<const std::int64_t> first_rows, const Tensor& x, const Tensor& out) {
  Chosen& how = chosen(weights.shape);
  const Fp8Weights::Form form = form_of(weights.shape);
  const auto multiply = [&](std::int64_t expert, const std::byte* weight) {
    const ExpertRows rows = rows_of(first_rows, expert);
    if (rows.count == 0) return;
    how.product.run({.out = matrix_of(out.row_slice(rows.begin, rows.count)),
                     .x = matrix_of(x.row_slice(rows.begin, rows.count)),
                     .weight = weight,
                     .bias = nullptr,
                     .num_tokens = rows.count},
                    how.algorithm, workspace_.data(), context_.stream());
  };
  const auto num_experts = static_cast<std::int64_t>(first_rows.size()) - 1;
  const auto matrix = [&form](const std::byte* matrices, std::int64_t i) {
    return matrices + static_cast<std::size_t>(i) * form.bytes();
  };
  if (!weights.fp8) {
    const auto* const matrices = static_cast<const std::byte*>(weights.weights.data());
    for (std::int64_t i = 0; i < num_experts; ++i) multiply(i, matrix(matrices, first_expert + i));
    return;
  }
  const std::int64_t at_once = std::max<std::int64_t>(1, static_cast<std::int64_t>(kExpandedBytes / form.bytes()));
  std::vector<Expansions::Group> groups;
  for (std::int64_t i = 0, end = 0; i < num_experts; i = end) {
    end = std::min(i + at_once, num_experts);
    const bool has_rows = first_rows[static_cast<std::size_t>(end)] > first_rows[static_cast<std::size_t>(i)];
    if (has_rows) groups.push_back({.first = first_expert + i, .count = end - i});
  }
  expansions_.run(*weights.fp8, form, groups, [&](const Expansions::Group& group, const std::byte* expanded) {
    for (std::int64_t i = 0; i < group.count; ++i) multiply(group.first - first_expert + i, matrix(expanded, i));
  });
}

// A product may write over the first rows of the next, which comes after it.
void MatMuls::multiply_quantized(const CudaExpertWeights& weights, std::int64_t first_expert,
                                 std::span<const std::int64_t> first_rows, const QuantizedRows& x, const Tensor& out) {
  Chosen& how = chosen(weights.shape);
  const auto num_experts = static_cast<std::int64_t>(first_rows.size()) - 1;
  std::int64_t most_rows = 0;
  for (std::int64_t expert = 0; expert < num_experts; ++expert) {
    most_rows = std::max(most_rows, rows_of(first_rows, expert).count);
  }
  const Buffer scratch = scratch_of(how.product, most_rows);
  for (std::int64_t expert = 0; expert < num_experts; ++expert) {
    const ExpertRows rows = rows_of(first_rows, expert);
    if (rows.count == 0) continue;
    const auto part = static_cast<std::size_t>(expert);
    how.product.run({.out = matrix_of(out.row_slice(rows.begin, rows.count)),
                     .x = {x.values(part), 0},
                     .weight = weights.fp8->stored(first_expert + expert),
                     .bias = nullptr,
                     .num_tokens = rows.count,
                     .weight_factors = weights.fp8->factors(first_expert + expert),
                     .x_factors = x.factors(part),
                     .scratch = scratch.data(),
                     .writable_rows = out.rows - rows.begin},
                    how.algorithm, workspace_.data(), context_.stream());
  }
}

}  // namespace layerprobe::device::cuda
