#pragma once

#include "compare/row_kernel.h"

// One a build of row_kernel_isa.cpp.
namespace layerprobe::compare {

namespace baseline {
extern const RowKernels kRowKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const RowKernels kRowKernels;
}
namespace avx512 {
extern const RowKernels kRowKernels;
}
#endif

}  // namespace layerprobe::compare
