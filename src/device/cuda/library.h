#pragma once

#include <string>

namespace layerprobe::device::cuda {

/// A library of the CUDA toolkit, opened at run time so that the program starts where there is none.
///
/// Looked for beside the program, then where the loader looks (LD_LIBRARY_PATH), under CUDA_HOME and CUDA_PATH, in
/// /usr/local/cuda, and in the nvidia/*/lib folders of the Python that VIRTUAL_ENV, CONDA_PREFIX or the first python3
/// on PATH belongs to. It stays open until the program ends: CUDA's libraries are not made to be closed.
class Library {
 public:
  /// `name` as in "libcublasLt.so.13". Throws Error(device) that names the places when there is none that opens.
  explicit Library(const std::string& name);

  /// Throws Error(device) when the library has no such function.
  template <typename Function>
  void find(Function*& function, const char* symbol) const {
    function = reinterpret_cast<Function*>(address(symbol));
  }

 private:
  void* address(const char* symbol) const;

  std::string name_;
  void* handle_ = nullptr;
};

}  // namespace layerprobe::device::cuda
