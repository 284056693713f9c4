#include "device/cuda/matmul.h"

#include "base/error.h"
#include "base/text.h"
#include "device/arguments.h"
#include "device/cuda/aligned.h"
#include "kernels/add.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

struct CudaWeight : MatMulWeight {
  std::int64_t in_features() const override { return shape.in_features; }
  std::int64_t out_features() const override { return shape.out_features; }
  std::size_t bytes() const override { return weight.bytes() + bias.bytes(); }

  Ops::MatMulShape shape;
  Buffer weight;  // [padded out_features, padded in_features]
  Buffer bias;    // [padded out_features]; without data when no part has one
};

struct CudaExpertWeights : ExpertWeights {
  std::int64_t num_experts() const override { return count; }
  std::int64_t in_features() const override { return shape.in_features; }
  std::int64_t out_features() const override { return shape.out_features; }
  std::size_t bytes() const override { return weights.bytes(); }

  std::size_t expert_bytes() const { return weights.bytes() / static_cast<std::size_t>(count); }

  Ops::MatMulShape shape;  // of each
  std::int64_t count = 0;
  Buffer weights;  // [num_experts, padded out_features, padded in_features]
};

kernels::Matrix matrix_of(const Tensor& tensor) { return {tensor.data, tensor.row_stride}; }

}  // namespace

MatMuls::MatMuls(Context& context, std::filesystem::path cache_folder)
    : context_(context),
      handle_(library_.create()),
      workspace_(context.allocate(Product::kWorkspaceBytes)),
      algorithms_(context, library_, std::move(cache_folder)) {}

std::string MatMuls::library() const { return "cuBLASLt " + library_.version(); }

std::unique_ptr<MatMulWeight> MatMuls::weight(const Ops::MatMulWeightParts& parts, Loader& loader) {
  auto weight = std::make_unique<CudaWeight>();
  const Dtype dtype = parts.dtype;
  std::int64_t out_features = 0;
  bool has_bias = false;
  for (const StoredValues& part : parts.weights) out_features += part.rows;
  for (const auto& part : parts.biases) has_bias = has_bias || part.has_value();
  weight->shape = {
      .in_features = parts.weights[0].columns, .out_features = out_features, .dtype = dtype, .has_bias = has_bias};
  const std::int64_t in = padded_features(weight->shape.in_features), out = padded_features(out_features);

  const auto zeros = [&](std::int64_t count) {
    Buffer buffer = context_.allocate(static_cast<std::size_t>(count) * size_of(dtype));
    kernels::check(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), context_.stream()), "load weights");
    return buffer;
  };
  const bool is_padded = in != weight->shape.in_features || out != out_features;
  weight->weight = is_padded ? zeros(out * in) : context_.allocate(static_cast<std::size_t>(out * in) * size_of(dtype));
  const Tensor whole = Tensor::contiguous(weight->weight.data(), dtype, out, in);
  if (has_bias) weight->bias = zeros(out);
  const Tensor biases = Tensor::contiguous(weight->bias.data(), dtype, 1, out);
  std::int64_t row = 0;
  for (std::size_t i = 0; i < parts.weights.size(); ++i) {
    const StoredValues& part = parts.weights[i];
    loader.add(whole.row_slice(row, part.rows).column_slice(0, part.columns), part);
    if (has_bias && parts.biases[i]) loader.add(biases.column_slice(row, part.rows), *parts.biases[i]);
    row += part.rows;
  }
  return weight;
}

MatMuls::Chosen& MatMuls::chosen(const Ops::MatMulShape& shape) {
  const auto found = products_.find(shape);
  if (found != products_.end()) return found->second;
  Product product(library_, handle_.get(), shape);
  const Algorithm algorithm = algorithms_.of(shape, product);
  return products_.emplace(shape, Chosen{std::move(product), algorithm}).first->second;
}

std::string MatMuls::choices(std::span<const Ops::MatMulShape> shapes) {
  std::vector<std::string> out;
  for (const Ops::MatMulShape& shape : shapes) {
    chosen(shape);
    out.push_back(algorithms_.text_of(shape));
  }
  return join(out, " ");
}

void MatMuls::multiply(const Ops::MatMul& args) {
  const auto* weight = dynamic_cast<const CudaWeight*>(&args.weight);
  expect(weight != nullptr, "a weight is multiplied on the device that made it");
  const Ops::MatMulShape& shape = weight->shape;
  check(args, shape.dtype);
  if (args.x.rows == 0) return;
  Chosen& how = chosen(shape);
  const bool library_adds = Product::adds_bias(shape.dtype);
  const AlignedInput x(context_, args.x, 1, padded_features(shape.in_features));
  const AlignedOutput out(context_, args.out, 1, padded_features(shape.out_features));
  how.product.run({.out = matrix_of(out.tensor()),
                   .x = matrix_of(x.tensor()),
                   .weight = weight->weight.data(),
                   .bias = library_adds ? weight->bias.data() : nullptr,
                   .num_tokens = args.x.rows},
                  how.algorithm, workspace_.data(), context_.stream());
  if (!library_adds && weight->bias.data() != nullptr) {  // f32 and f64 are rounded to the sums' own type anyway
    kernels::add({.out = matrix_of(out.tensor()),
                  .a = matrix_of(out.tensor()),
                  .b = {weight->bias.data(), 0},
                  .num_rows = args.x.rows,
                  .columns = padded_features(shape.out_features),
                  .dtype = shape.dtype},
                 context_.stream());
  }
  out.finish();
}

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
  weights->weights = context_.allocate(static_cast<std::size_t>(weights->count * out * in) * size_of(parts.dtype));
  if (in != weights->shape.in_features || out != out_features) {
    kernels::check(cudaMemsetAsync(weights->weights.data(), 0, weights->weights.bytes(), context_.stream()),
                   "load weights");
  }
  const Tensor all = Tensor::contiguous(weights->weights.data(), parts.dtype, weights->count * out, in);
  for (std::int64_t expert = 0; expert < weights->count; ++expert) {
    std::int64_t row = expert * out;
    for (const StoredValues& part : parts.experts[static_cast<std::size_t>(expert)]) {
      loader.add(all.row_slice(row, part.rows).column_slice(0, part.columns), part);
      row += part.rows;
    }
  }
  return weights;
}

// One stream is as fast as several, and thousands of rows an expert as dense products (docs/benchmarks.md).
void MatMuls::multiply_experts(const Ops::ExpertMatMul& args) {
  const auto* weights = dynamic_cast<const CudaExpertWeights*>(&args.weight);
  expect(weights != nullptr, "experts' weights are multiplied on the device that made them");
  const Ops::MatMulShape& shape = weights->shape;
  check(args, shape.dtype);
  if (args.x.rows == 0) return;
  Chosen& how = chosen(shape);
  const AlignedInput x(context_, args.x, 1, padded_features(shape.in_features));
  const AlignedOutput out(context_, args.out, 1, padded_features(shape.out_features));
  const auto* first_weight = static_cast<const std::byte*>(weights->weights.data()) +
                             static_cast<std::size_t>(args.first_expert) * weights->expert_bytes();
  for (std::size_t i = 0; i + 1 < args.first_rows.size(); ++i) {
    const std::int64_t first = args.first_rows[i] - args.first_rows[0];
    const std::int64_t rows = args.first_rows[i + 1] - args.first_rows[i];
    if (rows == 0) continue;
    how.product.run({.out = matrix_of(out.tensor().row_slice(first, rows)),
                     .x = matrix_of(x.tensor().row_slice(first, rows)),
                     .weight = first_weight + i * weights->expert_bytes(),
                     .bias = nullptr,
                     .num_tokens = rows},
                    how.algorithm, workspace_.data(), context_.stream());
  }
  out.finish();
}

}  // namespace layerprobe::device::cuda
