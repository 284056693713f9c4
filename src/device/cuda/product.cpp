// Our matrices are row-major and cuBLASLt's are column-major, which reads the memory of a row-major [rows, columns] as
// [columns, rows]. So
//
//   out[t, o]  = sum over k of x[t, k] * weight[o, k]                    row-major, as device/ops.h has it
//   out'[o, t] = sum over k of weight'[k, o] * x'[k, t]                  the same memory, column-major
//
// is A = weight', transposed, times B = x', as it is: M = out_features, N = tokens, K = in_features. No weight needs
// another layout than the checkpoint's, a bias has M elements, and a row stride is a leading dimension.
#include "device/cuda/product.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "device/cuda/quantized_rows.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

cudaDataType_t type_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return CUDA_R_64F;
    case Dtype::f32:
      return CUDA_R_32F;
    case Dtype::f16:
      return CUDA_R_16F;
    default:
      return CUDA_R_16BF;
  }
}

/// "Pedantic" keeps an environment variable from turning f32 into TF32 or sums of bf16.
cublasComputeType_t compute_of(Dtype dtype) {
  if (dtype == Dtype::f64) return CUBLAS_COMPUTE_64F_PEDANTIC;
  return dtype == Dtype::f32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
}

cudaDataType_t input_type_of(const Ops::MatMulShape& shape) {
  return shape.multiplies_fp8 ? CUDA_R_8F_E4M3 : type_of(shape.dtype);
}

cudaDataType_t scale_of(Dtype dtype) { return dtype == Dtype::f64 ? CUDA_R_64F : CUDA_R_32F; }

}  // namespace

template <typename T>
void Product::describe(cublasLtMatmulDescAttributes_t attribute, const T& value) {
  library_.check(library_.set_desc(desc_.get(), attribute, &value, sizeof value), "describe a product");
}

Product::Product(const CublasLt& library, cublasLtHandle_t handle, const Ops::MatMulShape& shape)
    : library_(library),
      handle_(handle),
      in_(padded_features(shape.in_features)),
      out_(padded_features(shape.out_features)),
      has_bias_(shape.has_bias && adds_bias(shape.dtype)),
      dtype_(shape.dtype),
      is_fp8_(shape.multiplies_fp8),
      desc_(library.matmul_desc(compute_of(shape.dtype), scale_of(shape.dtype))),
      weight_layout_(
          library.layout(input_type_of(shape), static_cast<std::uint64_t>(in_), static_cast<std::uint64_t>(out_), in_)),
      x_layout_(library.layout(input_type_of(shape), static_cast<std::uint64_t>(in_), 1, in_)),
      out_layout_(library.layout(type_of(shape.dtype), static_cast<std::uint64_t>(out_), 1, out_)) {
  describe(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (is_fp8_) {
    const std::int32_t of_weight = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
    const std::int32_t of_x = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
    describe(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, of_weight);
    describe(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, of_x);
    // cuBLASLt names no algorithm where there are none. They are looked at by products alone.
    alignas(16) static constexpr float kNoFactors[4] = {};
    const float* const none = kNoFactors;
    describe(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, none);
    describe(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, none);
  }
  if (!has_bias_) return;
  const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  const std::int32_t type = type_of(shape.dtype);
  describe(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
  describe(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
}

void Product::describe_tokens(std::int64_t num_tokens, std::int64_t x_stride, std::int64_t out_stride) {
  const auto columns = static_cast<std::uint64_t>(is_fp8_ ? QuantizedRows::padded(num_tokens) : num_tokens);
  const auto set = [&](cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, const auto& value) {
    library_.check(library_.set_layout(layout, attribute, &value, sizeof value), "describe a matrix");
  };
  set(x_layout_.get(), CUBLASLT_MATRIX_LAYOUT_COLS, columns);
  set(x_layout_.get(), CUBLASLT_MATRIX_LAYOUT_LD, x_stride);
  set(out_layout_.get(), CUBLASLT_MATRIX_LAYOUT_COLS, columns);
  set(out_layout_.get(), CUBLASLT_MATRIX_LAYOUT_LD, out_stride);
}

std::vector<Algorithm> Product::candidates(std::int64_t num_tokens) {
  const auto preference = library_.preference();
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    library_.check(library_.set_preference(preference.get(), attribute, &value, sizeof value),
                   "choose a product's algorithm");
  };
  const std::uint64_t workspace = kWorkspaceBytes;
  const std::uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = 16;
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, no_split);
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(attribute, alignment);
  }
  describe_tokens(num_tokens, in_, out_);
  std::array<cublasLtMatmulHeuristicResult_t, 16> results{};
  int count = 0;
  const cublasStatus_t status = library_.get_heuristic(handle_, desc_.get(), weight_layout_.get(), x_layout_.get(),
                                                       out_layout_.get(), out_layout_.get(), preference.get(),
                                                       static_cast<int>(results.size()), results.data(), &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) library_.check(status, "choose a product's algorithm");
  std::vector<Algorithm> out;
  for (int i = 0; i < count; ++i) {
    const auto& result = results[static_cast<std::size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS && allows(result.algo, num_tokens)) out.push_back(result.algo);
  }
  return out;
}

bool Product::allows(const Algorithm& algorithm, std::int64_t num_tokens) {
  std::int32_t splits = 0;
  std::uint32_t scheme = 0;
  std::size_t written = 0;
  const bool is_whole = library_.get_algorithm_config(&algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits,
                                                      sizeof splits, &written) == CUBLAS_STATUS_SUCCESS &&
                        library_.get_algorithm_config(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                                      sizeof scheme, &written) == CUBLAS_STATUS_SUCCESS &&
                        splits <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
  if (!is_whole) return false;
  describe_tokens(num_tokens, in_, out_);
  cublasLtMatmulHeuristicResult_t result{};
  return library_.check_algorithm(handle_, desc_.get(), weight_layout_.get(), x_layout_.get(), out_layout_.get(),
                                  out_layout_.get(), &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= kWorkspaceBytes;
}

void Product::run(const Arguments& args, const Algorithm& algorithm, void* workspace, cudaStream_t stream) {
  expect((args.bias != nullptr) == has_bias_, "a product has its shape's bias");
  if (has_bias_) describe(CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
  if (is_fp8_) return run_fp8(args, algorithm, workspace, stream);
  describe_tokens(args.num_tokens, args.x.row_stride, args.out.row_stride);
  multiply(args.weight, args.x.data, args.out.data, algorithm, workspace, stream);
}

/// For a result that ends where whole sixteens do not.
std::size_t Product::scratch_bytes(std::int64_t num_tokens) const {
  if (!is_fp8_) return 0;
  return static_cast<std::size_t>(QuantizedRows::padded(num_tokens) * out_) * size_of(dtype_);
}

void Product::run_fp8(const Arguments& args, const Algorithm& algorithm, void* workspace, cudaStream_t stream) {
  const std::int64_t tokens = QuantizedRows::padded(args.num_tokens);
  const bool fits = tokens <= std::max(args.writable_rows, args.num_tokens);
  describe(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, args.weight_factors);
  describe(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, args.x_factors);
  describe_tokens(args.num_tokens, in_, fits ? args.out.row_stride : out_);
  multiply(args.weight, args.x.data, fits ? args.out.data : args.scratch, algorithm, workspace, stream);
  if (fits) return;
  const std::size_t element = size_of(dtype_), row_bytes = static_cast<std::size_t>(out_) * element;
  kernels::check(
      cudaMemcpy2DAsync(args.out.data, static_cast<std::size_t>(args.out.row_stride) * element, args.scratch, row_bytes,
                        row_bytes, static_cast<std::size_t>(args.num_tokens), cudaMemcpyDeviceToDevice, stream),
      "matmul");
}

void Product::multiply(const void* weight, const void* x, void* out, const Algorithm& algorithm, void* workspace,
                       cudaStream_t stream) {
  const float one = 1, zero = 0;
  const double one_f64 = 1, zero_f64 = 0;
  const bool is_f64 = dtype_ == Dtype::f64;
  const void* const alpha = is_f64 ? static_cast<const void*>(&one_f64) : &one;
  const void* const beta = is_f64 ? static_cast<const void*>(&zero_f64) : &zero;
  library_.check(
      library_.matmul(handle_, desc_.get(), alpha, weight, weight_layout_.get(), x, x_layout_.get(), beta, out,
                      out_layout_.get(), out, out_layout_.get(), &algorithm, workspace, kWorkspaceBytes, stream),
      "matmul");
}

}  // namespace layerprobe::device::cuda
