#include "compare/row_kernel.h"

#include <vector>

#include "compare/row_kernel_isa.h"

namespace layerprobe::compare {

std::span<const RowKernels> row_kernels() {
  static const std::vector<RowKernels> kernels = [] {
    std::vector<RowKernels> found = {baseline::kRowKernels};
#if defined(__x86_64__) && !defined(__clang__)  // clang 14 does not know these names
    if (__builtin_cpu_supports("x86-64-v3")) found.push_back(avx2::kRowKernels);
    if (__builtin_cpu_supports("x86-64-v4")) found.push_back(avx512::kRowKernels);
#endif
    return found;
  }();
  return kernels;
}

}  // namespace layerprobe::compare
