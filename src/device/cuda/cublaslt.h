#pragma once

#include <cublasLt.h>

#include <memory>
#include <string>
#include <string_view>

#include "device/cuda/library.h"

namespace layerprobe::device::cuda {

/// cuBLASLt, opened at run time: the functions that we call.
class CublasLt {
 public:
  /// Throws Error(device) when it is not found.
  CublasLt();

  /// Of the library that was found: "13.1.0".
  std::string version() const;

  template <typename T>
  using Owned = std::unique_ptr<T, cublasStatus_t (*)(T*)>;
  Owned<cublasLtContext> create() const;
  Owned<cublasLtMatmulDescOpaque_t> matmul_desc(cublasComputeType_t compute, cudaDataType_t scale) const;
  Owned<cublasLtMatrixLayoutOpaque_t> layout(cudaDataType_t type, std::uint64_t rows, std::uint64_t columns,
                                             std::int64_t leading_dimension) const;
  Owned<cublasLtMatmulPreferenceOpaque_t> preference() const;

  decltype(&cublasLtMatmulDescSetAttribute) set_desc;
  decltype(&cublasLtMatrixLayoutSetAttribute) set_layout;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
  decltype(&cublasLtMatmulAlgoGetHeuristic) get_heuristic;
  decltype(&cublasLtMatmulAlgoCheck) check_algorithm;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) get_algorithm_config;
  decltype(&cublasLtMatmul) matmul;

  /// Throws Error(device) unless `status` is success. `doing` as in kernels/check.h.
  void check(cublasStatus_t status, std::string_view doing) const;

 private:
  Library library_;
  decltype(&cublasLtGetVersion) get_version_;
  decltype(&cublasLtGetStatusString) status_string_;
  decltype(&cublasLtCreate) create_;
  decltype(&cublasLtDestroy) destroy_;
  decltype(&cublasLtMatmulDescCreate) create_desc_;
  decltype(&cublasLtMatmulDescDestroy) destroy_desc_;
  decltype(&cublasLtMatrixLayoutCreate) create_layout_;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout_;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference_;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference_;
};

}  // namespace layerprobe::device::cuda
