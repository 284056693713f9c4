// A warp takes a token. Its lanes hold the scores of the experts lane, lane + 32, ... in shared memory and look for the
// best of those not yet chosen, once for each choice. Bound by these rounds; next to the router's own product and those
// of the experts it takes little.
#include "kernels/route_tokens.h"

#include "base/error.h"
#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/element.cuh"
#include "kernels/reduce.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kWarps = 4;  // of a block: 32 KiB of scores of 1,024 experts in f64, and of groups at most as much again

__device__ float exponential(float x) { return expf(x); }
__device__ double exponential(double x) { return exp(x); }

/// An expert, or a group of experts, that may be chosen.
template <typename A>
struct Candidate {
  A score;
  int expert;  // -1: none

  /// By falling score, a NaN before all numbers, the lower expert first among equals.
  __device__ bool goes_before(const Candidate& other) const {
    if (expert < 0 || other.expert < 0) return expert >= 0;
    const bool is_nan = score != score, other_is_nan = other.score != other.score;
    if (is_nan != other_is_nan) return is_nan;
    if (!is_nan && score != other.score) return score > other.score;
    return expert < other.expert;
  }
};

/// The best of all lanes' candidates, in every lane.
template <typename A>
__device__ Candidate<A> best_of_warp(Candidate<A> best) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Candidate<A> other{__shfl_xor_sync(kAllLanes, best.score, distance),
                             __shfl_xor_sync(kAllLanes, best.expert, distance)};
    if (other.goes_before(best)) best = other;
  }
  return best;
}

/// The lane's bits of the experts outside the groups that are chosen: of a group's two best the sum counts.
/// `selection(e)` is an expert's score, also of another lane's expert; `sums` has room for a group each.
template <typename A, typename Selection>
__device__ std::uint32_t outside_of_groups(const RouteTokens& args, A* sums, Selection selection) {
  const int lane = threadIdx.x, num_groups = static_cast<int>(args.num_groups);
  const int num_experts = static_cast<int>(args.num_experts), size = num_experts / num_groups;
  for (int group = lane; group < num_groups; group += 32) {
    Candidate<A> first{0, -1}, second{0, -1};
    for (int e = group * size; e < (group + 1) * size; ++e) {
      const Candidate<A> here{selection(e), e};
      if (here.goes_before(first)) {
        second = first;
        first = here;
      } else if (here.goes_before(second)) {
        second = here;
      }
    }
    sums[group] = first.score + second.score;
  }
  __syncwarp();
  std::uint32_t taken = ~0u, chosen = 0;  // `chosen`, bit i: the lane's i-th group
  for (std::int64_t j = 0; j < args.topk_groups; ++j) {
    Candidate<A> best{0, -1};
    for (int i = 0; lane + 32 * i < num_groups; ++i) {
      const Candidate<A> here{sums[lane + 32 * i], (chosen >> i & 1) != 0 ? -1 : lane + 32 * i};
      if (here.goes_before(best)) best = here;
    }
    best = best_of_warp(best);
    if (best.expert % 32 == lane) chosen |= 1u << best.expert / 32;
    for (int i = 0; lane + 32 * i < num_experts; ++i) {
      if ((lane + 32 * i) / size == best.expert) taken &= ~(1u << i);
    }
  }
  return taken;
}

template <typename T>
__global__ void __launch_bounds__(32 * kWarps) route_tokens_kernel(RouteTokens args) {
  using A = Scalar<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x, num_experts = static_cast<int>(args.num_experts);
  const std::int64_t token = std::int64_t{blockIdx.x} * kWarps + threadIdx.y;
  if (token >= args.num_tokens) return;  // a whole warp
  A* scores = reinterpret_cast<A*>(shared) + threadIdx.y * num_experts;
  A* group_sums = reinterpret_cast<A*>(shared) + kWarps * num_experts + threadIdx.y * args.num_groups;
  const T* logits = static_cast<const T*>(args.router_logits.data) + token * args.router_logits.row_stride;

  if (args.is_sigmoid) {
    for (int e = lane; e < num_experts; e += 32) scores[e] = 1 / (1 + exponential(-value_of(logits[e])));
  } else {
    A max = -INFINITY, sum = 0;
    for (int e = lane; e < num_experts; e += 32) {
      const A value = value_of(logits[e]);
      max = value > max ? value : max;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      const A other = __shfl_xor_sync(kAllLanes, max, distance);
      max = other > max ? other : max;
    }
    for (int e = lane; e < num_experts; e += 32) sum += scores[e] = exponential(value_of(logits[e]) - max);
    sum = team_sum<32>(sum);
    for (int e = lane; e < num_experts; e += 32) scores[e] /= sum;
  }
  __syncwarp();

  const A* bias = static_cast<const A*>(args.selection_bias);
  auto* indices = static_cast<std::int32_t*>(args.topk_indices.data) + token * args.topk_indices.row_stride;
  auto* weights = static_cast<A*>(args.topk_weights.data) + token * args.topk_weights.row_stride;
  const auto selection = [&](int e) { return bias == nullptr ? scores[e] : scores[e] + bias[e]; };
  std::uint32_t chosen = 0;  // bit i: the lane's i-th expert, which cannot be chosen (again)
  if (args.num_groups > 1) chosen = outside_of_groups<A>(args, group_sums, selection);
  A sum = 0;
  for (std::int64_t j = 0; j < args.num_choices; ++j) {
    Candidate<A> best{0, -1};
    for (int i = 0; lane + 32 * i < num_experts; ++i) {
      const int e = lane + 32 * i;
      const Candidate<A> here{selection(e), (chosen >> i & 1) != 0 ? -1 : e};
      if (here.goes_before(best)) best = here;
    }
    best = best_of_warp(best);
    if (best.expert % 32 == lane) chosen |= 1u << best.expert / 32;
    const A weight = scores[best.expert];
    sum += weight;
    if (lane == 0) {
      indices[j] = best.expert;
      weights[j] = weight;
    }
  }
  if (lane != 0) return;
  for (std::int64_t j = 0; j < args.num_choices; ++j) {
    A weight = weights[j];
    if (args.normalizes) weight /= sum + static_cast<A>(args.divisor_epsilon);
    weight *= static_cast<A>(args.scaling_factor);
    weights[j] = args.rounds_weights ? rounded<T>(weight) : weight;
  }
}

}  // namespace

void route_tokens(const RouteTokens& args, cudaStream_t stream) {
  expect(args.num_experts <= kMostExperts, "a layer has at most 1,024 experts");
  if (args.num_tokens == 0) return;  // an empty grid is a launch error
  const auto blocks = static_cast<unsigned>((args.num_tokens + kWarps - 1) / kWarps);
  const std::size_t score_bytes = args.dtype == Dtype::f64 ? sizeof(double) : sizeof(float);
  const std::int64_t scores = args.num_experts + (args.num_groups > 1 ? args.num_groups : 0);
  const std::size_t shared_bytes = kWarps * static_cast<std::size_t>(scores) * score_bytes;
  dispatch(args.dtype,
           [&]<typename T>() { route_tokens_kernel<T><<<blocks, dim3(32, kWarps), shared_bytes, stream>>>(args); });
  check(cudaGetLastError(), "launch route_tokens");
}

}  // namespace layerprobe::kernels
