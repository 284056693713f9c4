#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "base/dtype.h"
#include "base/error.h"

namespace layerprobe::kernels {

/// Calls `launch.operator()<T>()` with the C++ type of `dtype`. A new dtype is a new case here and nowhere else.
template <typename Launch>
void dispatch(Dtype dtype, Launch&& launch) {
  switch (dtype) {
    case Dtype::f64:
      return launch.template operator()<double>();
    case Dtype::f32:
      return launch.template operator()<float>();
    case Dtype::f16:
      return launch.template operator()<__half>();
    case Dtype::bf16:
      return launch.template operator()<__nv_bfloat16>();
    case Dtype::i32:
      break;
  }
  expect(false, "kernels are given floating numbers");
}

/// The same, and integers too: for what reads numbers and makes none of their type.
template <typename Launch>
void dispatch_any(Dtype dtype, Launch&& launch) {
  if (dtype == Dtype::i32) return launch.template operator()<std::int32_t>();
  dispatch(dtype, launch);
}

/// dispatch with whether the rows allow 16-byte accesses: `launch.operator()<T, aligned>()`.
template <typename Launch>
void dispatch(Dtype dtype, bool aligned, Launch&& launch) {
  dispatch(dtype, [&]<typename T>() {
    if (aligned) {
      launch.template operator()<T, true>();
    } else {
      launch.template operator()<T, false>();
    }
  });
}

}  // namespace layerprobe::kernels
