#include "device/cuda/cublaslt.h"

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::device::cuda {

CublasLt::CublasLt() : library_(text("libcublasLt.so.", CUBLAS_VER_MAJOR)) {
  library_.find(set_desc, "cublasLtMatmulDescSetAttribute");
  library_.find(set_layout, "cublasLtMatrixLayoutSetAttribute");
  library_.find(set_preference, "cublasLtMatmulPreferenceSetAttribute");
  library_.find(get_heuristic, "cublasLtMatmulAlgoGetHeuristic");
  library_.find(check_algorithm, "cublasLtMatmulAlgoCheck");
  library_.find(get_algorithm_config, "cublasLtMatmulAlgoConfigGetAttribute");
  library_.find(matmul, "cublasLtMatmul");
  library_.find(get_version_, "cublasLtGetVersion");
  library_.find(status_string_, "cublasLtGetStatusString");
  library_.find(create_, "cublasLtCreate");
  library_.find(destroy_, "cublasLtDestroy");
  library_.find(create_desc_, "cublasLtMatmulDescCreate");
  library_.find(destroy_desc_, "cublasLtMatmulDescDestroy");
  library_.find(create_layout_, "cublasLtMatrixLayoutCreate");
  library_.find(destroy_layout_, "cublasLtMatrixLayoutDestroy");
  library_.find(create_preference_, "cublasLtMatmulPreferenceCreate");
  library_.find(destroy_preference_, "cublasLtMatmulPreferenceDestroy");
}

std::string CublasLt::version() const {
  const std::size_t version = get_version_();  // 130100
  return text(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

CublasLt::Owned<cublasLtContext> CublasLt::create() const {
  cublasLtHandle_t handle = nullptr;
  check(create_(&handle), "start cuBLASLt");
  return {handle, destroy_};
}

CublasLt::Owned<cublasLtMatmulDescOpaque_t> CublasLt::matmul_desc(cublasComputeType_t compute,
                                                                  cudaDataType_t scale) const {
  cublasLtMatmulDesc_t desc = nullptr;
  check(create_desc_(&desc, compute, scale), "describe a product");
  return {desc, destroy_desc_};
}

CublasLt::Owned<cublasLtMatrixLayoutOpaque_t> CublasLt::layout(cudaDataType_t type, std::uint64_t rows,
                                                               std::uint64_t columns,
                                                               std::int64_t leading_dimension) const {
  cublasLtMatrixLayout_t layout = nullptr;
  check(create_layout_(&layout, type, rows, columns, leading_dimension), "describe a matrix");
  return {layout, destroy_layout_};
}

CublasLt::Owned<cublasLtMatmulPreferenceOpaque_t> CublasLt::preference() const {
  cublasLtMatmulPreference_t preference = nullptr;
  check(create_preference_(&preference), "choose a product's algorithm");
  return {preference, destroy_preference_};
}

void CublasLt::check(cublasStatus_t status, std::string_view doing) const {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error({.kind = status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorKind::resource : ErrorKind::device,
               .where = std::string(doing),
               .what = text("cuBLASLt ", version(), ": ", status_string_(status)),
               .fix = "run again with CUBLASLT_LOG_LEVEL=1, which says what it refuses"});
}

}  // namespace layerprobe::device::cuda
