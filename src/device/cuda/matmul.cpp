#include "device/cuda/matmul.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/text.h"
#include "device/arguments.h"
#include "device/cuda/aligned.h"
#include "device/cuda/fp8_weights.h"
#include "kernels/add.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

constexpr std::size_t kExpandedBytes = std::size_t{512} << 20;  // of experts' FP8 weights at once, at most

struct CudaWeight : MatMulWeight {
  std::int64_t in_features() const override { return shape.in_features; }
  std::int64_t out_features() const override { return shape.out_features; }
  std::size_t bytes() const override { return weight.bytes() + bias.bytes() + (fp8 ? fp8->bytes() : 0); }

  Ops::MatMulShape shape;
  Buffer weight;                  // [padded out_features, padded in_features], or
  std::optional<Fp8Weights> fp8;  // kept as it is stored
  Buffer bias;                    // [padded out_features]; without data when no part has one
};

struct CudaExpertWeights : ExpertWeights {
  std::int64_t num_experts() const override { return count; }
  std::int64_t in_features() const override { return shape.in_features; }
  std::int64_t out_features() const override { return shape.out_features; }
  std::size_t bytes() const override { return fp8 ? fp8->bytes() : weights.bytes(); }

  /// Of one, padded, as products take it.
  std::size_t expert_bytes() const {
    return static_cast<std::size_t>(padded_features(shape.out_features) * padded_features(shape.in_features)) *
           size_of(shape.dtype);
  }

  Ops::MatMulShape shape;  // of each
  std::int64_t count = 0;
  Buffer weights;                 // [num_experts, padded out_features, padded in_features], or
  std::optional<Fp8Weights> fp8;  // kept as they are stored
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
  const bool keeps_fp8 = Fp8Weights::keeps(parts.weights);
  if (keeps_fp8) {
    weight->fp8.emplace(context_, std::span(&parts.weights, 1), loader);
    if (multiplies_fp8_) weight->fp8->expect_multipliable();
    weight->shape.multiplies_fp8 = multiplies_fp8_;
  } else {
    weight->weight =
        is_padded ? zeros(out * in) : context_.allocate(static_cast<std::size_t>(out * in) * size_of(dtype));
  }
  const Tensor whole = Tensor::contiguous(weight->weight.data(), dtype, out, in);
  if (has_bias) weight->bias = zeros(out);
  const Tensor biases = Tensor::contiguous(weight->bias.data(), dtype, 1, out);
  std::int64_t row = 0;
  for (std::size_t i = 0; i < parts.weights.size(); ++i) {
    const StoredValues& part = parts.weights[i];
    if (!keeps_fp8) add(whole.row_slice(row, part.rows).column_slice(0, part.columns), part, loader);
    if (has_bias && parts.biases[i]) loader.add(biases.column_slice(row, part.rows), *parts.biases[i]);
    row += part.rows;
  }
  return weight;
}

void MatMuls::add(const Tensor& out, const StoredValues& values, Loader& loader) {
  if (values.scales) return load_by_host(context_, out, values);
  loader.add(out, values);
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
  Buffer expanded;
  if (weight->fp8 && !shape.multiplies_fp8) {
    expanded = weight->fp8->expand(context_, 0, 1, shape.dtype, padded_features(shape.out_features),
                                   padded_features(shape.in_features));
  }
  const Buffer scratch = scratch_of(how.product, args.x.rows);
  how.product.run({.out = matrix_of(out.tensor()),
                   .x = matrix_of(x.tensor()),
                   .weight = shape.multiplies_fp8 ? weight->fp8->stored(0)
                             : weight->fp8        ? expanded.data()
                                                  : weight->weight.data(),
                   .bias = library_adds ? weight->bias.data() : nullptr,
                   .num_tokens = args.x.rows,
                   .weight_factors = shape.multiplies_fp8 ? weight->fp8->factors(0) : nullptr,
                   .scratch = scratch.data()},
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

Buffer MatMuls::scratch_of(const Product& product, std::int64_t num_tokens) const {
  const std::size_t bytes = product.scratch_bytes(num_tokens);
  return bytes == 0 ? Buffer() : context_.allocate(bytes);
}

// One product after the other, on one stream: from a thousand rows an expert on each fills the GPU. Where FP8 is
// multiplied one may write over the first rows of the next, which comes after it.
void MatMuls::multiply_experts(const Ops::ExpertMatMul& args) {
  const auto* weights = dynamic_cast<const CudaExpertWeights*>(&args.weight);
  expect(weights != nullptr, "experts' weights are multiplied on the device that made them");
  const Ops::MatMulShape& shape = weights->shape;
  check(args, shape.dtype);
  if (args.x.rows == 0) return;
  Chosen& how = chosen(shape);
  const AlignedInput x(context_, args.x, 1, padded_features(shape.in_features));
  const AlignedOutput out(context_, args.out, 1, padded_features(shape.out_features));
  const auto num_experts = static_cast<std::int64_t>(args.first_rows.size()) - 1;
  const std::size_t expert_bytes = weights->expert_bytes();
  const bool expands = weights->fp8 && !shape.multiplies_fp8;
  const std::int64_t at_once =
      expands ? std::max<std::int64_t>(1, static_cast<std::int64_t>(kExpandedBytes / expert_bytes)) : num_experts;
  std::int64_t most_rows = 0;
  for (std::size_t i = 0; i + 1 < args.first_rows.size(); ++i) {
    most_rows = std::max(most_rows, args.first_rows[i + 1] - args.first_rows[i]);
  }
  const Buffer scratch = scratch_of(how.product, most_rows);
  for (std::int64_t begin = 0; begin < num_experts; begin += at_once) {
    const std::int64_t end = std::min(num_experts, begin + at_once);
    Buffer expanded;
    if (expands) {
      expanded = weights->fp8->expand(context_, args.first_expert + begin, end - begin, shape.dtype,
                                      padded_features(shape.out_features), padded_features(shape.in_features));
    }
    for (std::int64_t expert = begin; expert < end; ++expert) {
      const std::int64_t row = args.first_rows[static_cast<std::size_t>(expert)] - args.first_rows[0];
      const std::int64_t rows = args.first_rows[static_cast<std::size_t>(expert) + 1] - args.first_rows[0] - row;
      if (rows == 0) continue;
      const std::int64_t number = args.first_expert + expert;
      const auto offset = [&](const Buffer& buffer, std::int64_t index) {
        return static_cast<const std::byte*>(buffer.data()) + static_cast<std::size_t>(index) * expert_bytes;
      };
      how.product.run({.out = matrix_of(out.tensor().row_slice(row, rows)),
                       .x = matrix_of(x.tensor().row_slice(row, rows)),
                       .weight = shape.multiplies_fp8 ? weights->fp8->stored(number)
                                 : expands            ? offset(expanded, expert - begin)
                                                      : offset(weights->weights, number),
                       .bias = nullptr,
                       .num_tokens = rows,
                       .weight_factors = shape.multiplies_fp8 ? weights->fp8->factors(number) : nullptr,
                       .scratch = scratch.data(),
                       .writable_rows = args.x.rows - row},
                      how.algorithm, workspace_.data(), context_.stream());
    }
  }
  out.finish();
}

}  // namespace layerprobe::device::cuda
