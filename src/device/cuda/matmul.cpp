#include "device/cuda/matmul.h"

#include <array>
#include <optional>

#include "base/error.h"
#include "base/text.h"
#include "device/arguments.h"
#include "device/cuda/aligned.h"
#include "device/cuda/quantized_rows.h"
#include "kernels/add.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

struct CudaWeight : MatMulWeight {
  std::int64_t in_features() const override { return shape.in_features; }
  std::int64_t out_features() const override { return shape.out_features; }
  std::size_t bytes() const override { return weight.bytes() + bias.bytes() + (fp8 ? fp8->bytes() : 0); }

  Ops::MatMulShape shape;
  Buffer weight;                  // [padded out_features, padded in_features], or
  std::optional<Fp8Weights> fp8;  // kept as it is stored
  Buffer bias;                    // [padded out_features]; without data when no part has one
};

}  // namespace

MatMuls::MatMuls(Context& context, std::filesystem::path cache_folder)
    : context_(context),
      handle_(library_.create()),
      workspace_(context.allocate(Product::kWorkspaceBytes)),
      algorithms_(context, library_, std::move(cache_folder)),
      expansions_(context) {}

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
  if (values.scales || values.only_read_values) return load_by_host(context_, out, values);
  loader.add(out, values);
}

Fp8Weights::Form MatMuls::form_of(const Ops::MatMulShape& shape) {
  return {.dtype = shape.dtype,
          .padded_rows = padded_features(shape.out_features),
          .padded_columns = padded_features(shape.in_features)};
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
    const Fp8Weights::Form form = form_of(shape);
    expanded = context_.allocate(form.bytes());
    weight->fp8->expand(expanded.data(), form, 0, 1, context_.stream());
  }
  Product::Arguments product{.out = matrix_of(out.tensor()),
                             .x = matrix_of(x.tensor()),
                             .weight = weight->fp8 ? expanded.data() : weight->weight.data(),
                             .bias = library_adds ? weight->bias.data() : nullptr,
                             .num_tokens = args.x.rows};
  std::optional<QuantizedRows> quantized;
  const Buffer scratch = scratch_of(how.product, args.x.rows);
  if (shape.multiplies_fp8) {
    const std::array<std::int64_t, 2> rows = {0, args.x.rows};
    quantized.emplace(context_, QuantizedRows::source_of(x.tensor()), rows);
    product.x = {quantized->values(0), 0};
    product.x_factors = quantized->factors(0);
    product.weight = weight->fp8->stored(0);
    product.weight_factors = weight->fp8->factors(0);
    product.scratch = scratch.data();
  }
  how.product.run(product, how.algorithm, workspace_.data(), context_.stream());
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

Buffer MatMuls::scratch_of(const Product& product, std::int64_t num_tokens) const {
  const std::size_t bytes = product.scratch_bytes(num_tokens);
  return bytes == 0 ? Buffer() : context_.allocate(bytes);
}

}  // namespace layerprobe::device::cuda
