#pragma once

namespace layerprobe::kernels {

constexpr unsigned kAllLanes = 0xffffffffu;

/// The sum over kTeam threads (a power of two; consecutive, the first a multiple of kTeam), given to each of them with
/// the same bits. A team is up to a warp, or a whole block.
template <int kTeam, typename A>
__device__ A team_sum(A value) {
  static_assert(kTeam <= 32 || kTeam % 32 == 0);
  constexpr int kLanes = kTeam < 32 ? kTeam : 32;
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);  // both sides add the same two numbers
  }
  if constexpr (kTeam > 32) {
    __shared__ A warp_sums[kTeam / 32];
    __syncthreads();  // an earlier call's readers are done with warp_sums
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
    __syncthreads();
    value = warp_sums[0];
#pragma unroll
    for (int warp = 1; warp < kTeam / 32; ++warp) value += warp_sums[warp];
  }
  return value;
}

}  // namespace layerprobe::kernels
