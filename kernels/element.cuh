#pragma once

// Numbers as kernels compute with them: f32, or f64 where the tensors are f64. The kernels are compiled so that a
// product and a sum are never fused unless the source says so (fma): rounding points are part of the formulas.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace layerprobe::kernels {

template <typename T>
using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline double value_of(double value) { return value; }
__device__ inline float value_of(std::int32_t value) { return static_cast<float>(value); }  // exact below 2^24
__device__ inline float value_of(float value) { return value; }
__device__ inline float value_of(__half value) { return __half2float(value); }
__device__ inline float value_of(__nv_bfloat16 value) { return __bfloat162float(value); }

/// To nearest, ties to even.
template <typename T>
__device__ T element_of(Scalar<T> value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

/// The value that T keeps of it.
template <typename T>
__device__ Scalar<T> rounded(Scalar<T> value) {
  return value_of(element_of<T>(value));
}

template <typename A>
__device__ bool is_finite(A value) {
  return value - value == 0;
}

}  // namespace layerprobe::kernels
