#pragma once

namespace layerprobe::kernels {

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }
__device__ inline double silu(double x) { return x / (1.0 + exp(-x)); }

}  // namespace layerprobe::kernels
