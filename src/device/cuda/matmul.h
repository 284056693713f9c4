#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "device/cuda/algorithms.h"
#include "device/cuda/expansions.h"
#include "device/cuda/fp8_weights.h"
#include "device/cuda/loader.h"

namespace layerprobe::device::cuda {

class QuantizedRows;
struct CudaExpertWeights;  // experts.cpp

/// Matrix products on one GPU, by cuBLASLt. One thread at a time.
class MatMuls {
 public:
  MatMuls(Context& context, std::filesystem::path cache_folder);

  /// "cuBLASLt 13.1.0"
  std::string library() const;

  /// As Ops::matmul_weight, arguments checked.
  std::unique_ptr<MatMulWeight> weight(const Ops::MatMulWeightParts& parts, Loader& loader);
  void multiply(const Ops::MatMul& args);
  /// As Ops::expert_weights, arguments checked.
  std::unique_ptr<ExpertWeights> expert_weights(const Ops::ExpertWeightsParts& parts, Loader& loader);
  void multiply_experts(const Ops::ExpertMatMul& args);
  /// As Ops::run_experts where that takes fewer passes than its parts do; else false, and nothing is done.
  bool run_experts(const Ops::RunExperts& args);

  /// As in Ops, where the GPU can: for weights made from now on.
  void multiply_fp8() { multiplies_fp8_ = true; }
  std::string choices(std::span<const Ops::MatMulShape> shapes);
  void use_choices(std::string_view text) { algorithms_.use(text); }

 private:
  struct Chosen {
    Product product;
    Algorithm algorithm;
  };
  void multiply_expanded(const CudaExpertWeights& weights, std::int64_t first_expert,
                         std::span<const std::int64_t> first_rows, const Tensor& x, const Tensor& out);
  void multiply_quantized(const CudaExpertWeights& weights, std::int64_t first_expert,
                          std::span<const std::int64_t> first_rows, const QuantizedRows& x, const Tensor& out);
  /// How products of that shape take FP8 weights that are expanded.
  static Fp8Weights::Form form_of(const Ops::MatMulShape& shape);
  Chosen& chosen(const Ops::MatMulShape& shape);
  void add(const Tensor& out, const StoredValues& values, Loader& loader);
  Buffer scratch_of(const Product& product, std::int64_t num_tokens) const;

  Context& context_;
  CublasLt library_;
  CublasLt::Owned<cublasLtContext> handle_;
  Buffer workspace_;
  Algorithms algorithms_;
  std::map<Ops::MatMulShape, Chosen> products_;
  Expansions expansions_;
  bool multiplies_fp8_ = false;
};

}  // namespace layerprobe::device::cuda
