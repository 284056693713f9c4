#pragma once

#include <optional>
#include <vector>

#include "device/cuda/context.h"
#include "device/cuda/cublaslt.h"
#include "kernels/matrix.h"

namespace layerprobe::device::cuda {

/// Widths are multiples of this many elements, so that rows of every dtype begin at multiples of 16 bytes and cuBLASLt
/// has its fastest algorithms for all products; what is narrower is padded with zeros.
constexpr std::int64_t kFeatureStep = 8;
constexpr std::int64_t padded_features(std::int64_t count) {
  return (count + kFeatureStep - 1) / kFeatureStep * kFeatureStep;
}

using Algorithm = cublasLtMatmulAlgo_t;

/// Products of one shape as cuBLASLt has them. One thread at a time.
class Product {
 public:
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what NVIDIA advises for compute capability 9

  /// A bias is added by cuBLASLt where it would be rounded otherwise, in f16 and bf16; else add_bias is the caller's.
  Product(const CublasLt& library, cublasLtHandle_t handle, const Ops::MatMulShape& shape);

  static bool adds_bias(Dtype dtype) { return size_of(dtype) == 2; }

  /// Algorithms without a split of the sums, for this many tokens, what cuBLASLt takes for the fastest first.
  std::vector<Algorithm> candidates(std::int64_t num_tokens);
  /// Whether the algorithm can multiply this many tokens and splits no sum.
  bool allows(const Algorithm& algorithm, std::int64_t num_tokens);

  struct Arguments {
    kernels::Matrix out;  // [num_tokens, padded out_features]
    kernels::Matrix x;    // [num_tokens, padded in_features]; QuantizedRows::values where the shape multiplies FP8
    const void* weight;   // [padded out_features, padded in_features]; F8_E4M3 where the shape multiplies FP8
    const void* bias;     // [padded out_features], or nullptr
    std::int64_t num_tokens;
    // Where the shape multiplies FP8:
    const float* weight_factors = nullptr;  // Fp8Weights::factors
    const float* x_factors = nullptr;       // QuantizedRows::factors
    void* scratch = nullptr;                // [scratch_bytes(num_tokens)], aligned to 256
    std::int64_t writable_rows = 0;         // of out, from the first: those after num_tokens may get any value
  };
  /// Zero where the shape multiplies no FP8.
  std::size_t scratch_bytes(std::int64_t num_tokens) const;
  void run(const Arguments& args, const Algorithm& algorithm, void* workspace, cudaStream_t stream);

 private:
  template <typename T>
  void describe(cublasLtMatmulDescAttributes_t attribute, const T& value);
  void describe_tokens(std::int64_t num_tokens, std::int64_t x_stride, std::int64_t out_stride);
  void run_fp8(const Arguments& args, const Algorithm& algorithm, void* workspace, cudaStream_t stream);
  void multiply(const void* weight, const void* x, void* out, const Algorithm& algorithm, void* workspace,
                cudaStream_t stream);

  const CublasLt& library_;
  cublasLtHandle_t handle_;
  std::int64_t in_, out_;
  bool has_bias_;
  Dtype dtype_;
  bool is_fp8_;
  CublasLt::Owned<cublasLtMatmulDescOpaque_t> desc_;
  CublasLt::Owned<cublasLtMatrixLayoutOpaque_t> weight_layout_, x_layout_, out_layout_;
};

}  // namespace layerprobe::device::cuda
