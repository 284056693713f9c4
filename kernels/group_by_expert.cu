// A stable counting sort in four steps: a warp counts the experts of a tile of choices; a block an expert sums the
// counts of the tiles before each; one block sums the experts before each; the warps go through their tiles again and
// deal the rows. A choice's place depends on the choices before it alone, so no order of threads shows. Bound by the
// latency of four small kernels.
#include "kernels/group_by_expert.h"

#include "base/error.h"
#include "kernels/check.h"
#include "kernels/reduce.cuh"
#include "kernels/route_tokens.h"

namespace layerprobe::kernels {
namespace {

constexpr int kScanThreads = 256;

/// The expert of each choice of a warp's tile, 32 at a time: work(choice, expert), in every lane; -1 beyond the end.
template <typename Work>
__device__ void for_tile(const GroupByExpert& args, Work work) {
  const std::int64_t num_choices = args.num_tokens * args.num_choices;
  const std::int64_t begin = blockIdx.x * GroupByExpert::kTile;
  for (std::int64_t first = begin; first < begin + GroupByExpert::kTile && first < num_choices; first += 32) {
    const std::int64_t choice = first + threadIdx.x;
    int expert = -1;
    if (choice < num_choices) {
      const std::int64_t token = choice / args.num_choices;
      expert = static_cast<const std::int32_t*>(
          args.topk_indices.data)[token * args.topk_indices.row_stride + choice % args.num_choices];
    }
    work(choice, expert);
  }
}

__global__ void __launch_bounds__(32) count_kernel(GroupByExpert args) {
  __shared__ std::int32_t counts[kMostExperts];
  for (int e = threadIdx.x; e < args.num_experts; e += 32) counts[e] = 0;
  __syncwarp();
  for_tile(args, [&](std::int64_t, int expert) {
    if (expert >= 0) atomicAdd(&counts[expert], 1);  // a count has no order
  });
  __syncwarp();
  for (int e = threadIdx.x; e < args.num_experts; e += 32)
    args.tile_counts[blockIdx.x * args.num_experts + e] = counts[e];
}

/// The sum of the values of the threads before this one, and that of all; in a block of kScanThreads.
__device__ std::int32_t sum_before(std::int32_t value, std::int32_t& all) {
  __shared__ std::int32_t warp_sums[kScanThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  std::int32_t sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const std::int32_t other = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += other;
  }
  __syncthreads();  // an earlier call's readers are done
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  std::int32_t before = sum - value;
  all = 0;
  for (int w = 0; w < kScanThreads / 32; ++w) {
    if (w < warp) before += warp_sums[w];
    all += warp_sums[w];
  }
  return before;
}

/// Of an expert: the counts of its tiles become the sums of those before; the whole goes to first_rows[expert + 1].
__global__ void __launch_bounds__(kScanThreads) scan_tiles_kernel(GroupByExpert args, std::int64_t num_tiles) {
  const std::int64_t expert = blockIdx.x;
  std::int32_t before = 0;
  for (std::int64_t first = 0; first < num_tiles; first += kScanThreads) {
    const std::int64_t tile = first + threadIdx.x;
    std::int32_t* count = args.tile_counts + tile * args.num_experts + expert;
    std::int32_t all = 0;
    const std::int32_t here = sum_before(tile < num_tiles ? *count : 0, all);
    if (tile < num_tiles) *count = before + here;
    before += all;
  }
  if (threadIdx.x == 0) args.first_rows[expert + 1] = before;
}

__global__ void __launch_bounds__(kScanThreads) scan_experts_kernel(GroupByExpert args) {
  std::int32_t before = 0;
  for (std::int64_t first = 0; first < args.num_experts; first += kScanThreads) {
    const std::int64_t expert = first + threadIdx.x;
    const bool is_one = expert < args.num_experts;
    const std::int32_t count = is_one ? args.first_rows[expert + 1] : 0;
    std::int32_t all = 0;
    const std::int32_t here = sum_before(count, all);
    if (is_one) {
      args.first_rows[expert + 1] = before + here + count;
      args.first_rows_on_host[expert + 1] = before + here + count;
    }
    before += all;
  }
  if (threadIdx.x == 0) args.first_rows[0] = args.first_rows_on_host[0] = 0;
}

__global__ void __launch_bounds__(32) deal_kernel(GroupByExpert args) {
  __shared__ std::int32_t next[kMostExperts];
  for (int e = threadIdx.x; e < args.num_experts; e += 32) {
    next[e] = args.first_rows[e] + args.tile_counts[blockIdx.x * args.num_experts + e];
  }
  __syncwarp();
  const unsigned before = (1u << threadIdx.x) - 1;
  for_tile(args, [&](std::int64_t choice, int expert) {
    const unsigned same = __match_any_sync(kAllLanes, expert);
    std::int32_t row = 0;
    if (expert >= 0) row = next[expert] + __popc(same & before);
    __syncwarp();
    if (expert >= 0 && (same & before) == 0) next[expert] += __popc(same);  // the first of them
    __syncwarp();
    if (expert < 0) return;
    const std::int64_t token = choice / args.num_choices;
    static_cast<std::int32_t*>(
        args.row_of_choice.data)[token * args.row_of_choice.row_stride + choice % args.num_choices] = row;
    static_cast<std::int32_t*>(args.token_of_row.data)[row * args.token_of_row.row_stride] =
        static_cast<std::int32_t>(token);
  });
}

}  // namespace

void group_by_expert(const GroupByExpert& args, cudaStream_t stream) {
  expect(args.num_experts <= kMostExperts, "a layer has at most 1,024 experts");
  const auto tiles = static_cast<unsigned>(args.num_tiles());
  const auto experts = static_cast<unsigned>(args.num_experts);
  if (tiles > 0) count_kernel<<<tiles, 32, 0, stream>>>(args);  // an empty grid is a launch error
  scan_tiles_kernel<<<experts, kScanThreads, 0, stream>>>(args, args.num_tiles());
  scan_experts_kernel<<<1, kScanThreads, 0, stream>>>(args);
  if (tiles > 0) deal_kernel<<<tiles, 32, 0, stream>>>(args);
  check(cudaGetLastError(), "launch group_by_expert");
}

}  // namespace layerprobe::kernels
