// Causal attention in f16 and bf16 on the tensor cores of compute capability 9.0, blockwise with a running maximum and
// sum (Dao 2023, arXiv:2307.08691), with warps that specialise and products that run beside the softmax (Shah et al.
// 2024, arXiv:2407.08608).
//
// A block stays on its multiprocessor and takes one tile after another: 128 queries of one head. Of its three
// warpgroups one copies: queries, then the prompt's keys and values 128 at a time (64 where heads are wider than 128),
// into two places each, and the next tile's while this one's end is computed. The other two have 64 queries each. While
// the exponentials of one block of keys are taken, the product of the ones before with their values runs, and the two
// warpgroups take turns: one's products run beside the other's softmax. Rounding is that of attention_mma.cu. Bound by
// the tensor cores, and, below some thousand tokens, by how tiles begin and end. Measured on an H100 80GB, 32 heads of
// 128 and 8 of keys in bf16, by layerprobe_bench_device: 365, 500 and 568 TFLOP/s for 8 prompts of 1,024 tokens, 2 of
// 4,096 and 1 of 16,384 (348, 494 and 569 without turns); 2 of 4,096 with heads of 64 and 256: 365 and 549.
//
// Blocks of queries and of keys begin at the prompt's first token and a row of a tile is computed by itself, so that a
// row's bits depend on its prompt alone.
#include "kernels/attention.cuh"
#include "kernels/check.h"
#include "kernels/mma.cuh"
#include "kernels/softmax.cuh"
#include "kernels/wgmma.cuh"

namespace layerprobe::kernels {
namespace {

constexpr int kQueries = 128;
constexpr int kRows = 64;    // of a warpgroup
constexpr int kGroup = 128;  // threads of a warpgroup
constexpr int kThreads = 3 * kGroup;
constexpr int kPlaces = 2;    // for keys, and for values
constexpr int kColumns = 64;  // of a slab

/// kDim: head_dim rounded up to what the kernel is compiled for; the columns beyond head_dim are zeros.
template <int kDim>
struct Sizes {
  static constexpr int kKeys = kDim <= 128 ? 128 : 64;
  static constexpr int kSlabs = kDim / kColumns;
  static constexpr int kQuerySlab = kQueries * kColumns * 2;  // bytes
  static constexpr int kKeySlab = kKeys * kColumns * 2;
  static constexpr int kQueryBytes = kSlabs * kQuerySlab;
  static constexpr int kKeyBytes = kSlabs * kKeySlab;
  static constexpr int kBytes = kQueryBytes + 2 * kPlaces * kKeyBytes + 1024;  // the begin is rounded up
};

struct Barriers {
  PhaseBarrier queries_are_here, queries_are_read;
  PhaseBarrier keys_are_here[kPlaces], keys_are_read[kPlaces];
  PhaseBarrier values_are_here[kPlaces], values_are_read[kPlaces];
  PhaseBarrier turns[2];    // of the computing warpgroups
  PhaseBarrier written[2];  // all threads of one have written their results
  PhaseBarrier swept;       // all have gone through the block's tiles
};

/// The n-th use of a ring of places.
struct Turn {
  std::uint32_t n = 0;

  __device__ std::uint32_t place() const { return n % kPlaces; }
  __device__ std::uint32_t parity() const { return n / kPlaces % 2; }
};

struct Shared {
  std::uint32_t queries, keys, values;  // addresses
  Barriers* barriers;
  int* found_non_finite;
};

/// Calls work(tile) for each of this block's, the longest first.
template <typename T, typename Work>
__device__ void for_each_tile(const Attention& args, Work work) {
  for (int i = static_cast<int>(blockIdx.x); i < args.num_tiles * args.num_heads; i += static_cast<int>(gridDim.x)) {
    work(TileView<T>(args, args.tiles[i / args.num_heads], i % args.num_heads));
  }
}

/// The copying warpgroup. A copy is made known when two more have been started, so that three are on their way.
template <typename T, int kDim>
class Copier {
 public:
  __device__ Copier(const Attention& args, const Shared& shared) : args_(args), shared_(shared) {}

  /// All of the block's tiles. See spread_non_finite for `clean`.
  __device__ void sweep(bool clean) {
    for_each_tile<T>(args_, [&](const TileView<T>& tile) { copy_tile(tile, clean); });
    make_all_known();
  }

 private:
  using Size = Sizes<kDim>;
  static constexpr int kPieces = kDim / 8;        // of 16 bytes, in a row
  static constexpr int kStep = kGroup / kPieces;  // rows that the threads copy at once
  static_assert(kGroup % kPieces == 0 && (kStep % 8 == 0 || 8 % kStep == 0));

  __device__ void copy_tile(const TileView<T>& tile, bool clean) {
    Barriers& barriers = *shared_.barriers;
    wait_for(barriers.queries_are_read, tiles_ % 2 ^ 1);
    start_copy<kQueries>(shared_.queries, tile.query, args_.query_states.row_stride, tile.first_query, tile.length);
    make_known_later(&barriers.queries_are_here);
    ++tiles_;
    const int end = min(tile.first_query + kQueries, tile.length);
    for (int key = tile.first_seen(tile.first_query) / Size::kKeys * Size::kKeys; key < end; key += Size::kKeys) {
      const std::uint32_t place = turn_.place(), at = place * Size::kKeyBytes;
      wait_for(barriers.keys_are_read[place], turn_.parity() ^ 1);
      start_copy<Size::kKeys>(shared_.keys + at, tile.key, args_.key_states.row_stride, key, tile.length);
      make_known_later(&barriers.keys_are_here[place]);
      wait_for(barriers.values_are_read[place], turn_.parity() ^ 1);
      start_copy<Size::kKeys>(shared_.values + at, tile.value, args_.value_states.row_stride, key, tile.length);
      if (clean) zero_non_finite(shared_.values + at);
      make_known_later(&barriers.values_are_here[place]);
      ++turn_.n;
    }
  }

  /// Rows of a head from `first` on; zeros beyond the prompt and beyond head_dim.
  template <int kCount>
  __device__ void start_copy(std::uint32_t to, const T* from, std::int64_t row_stride, int first, int length) {
    constexpr int kSlabBytes = kCount * kColumns * 2;
    const int row = thread() / kPieces, piece = thread() % kPieces;
    const int rows = piece * 8 < args_.head_dim ? length - first - row : 0;  // from this thread's first on
    const T* source = from + (first + row) * row_stride + piece * 8;
    to += piece / 8 * kSlabBytes;
#pragma unroll 8
    for (int i = 0; i < kCount; i += kStep) {
      copy_async(to + swizzled(row + i, piece % 8), i < rows ? source : from, i < rows);
      source += kStep * row_stride;
    }
    commit_copies();
  }

  /// In what this thread has copied, so that nobody has to be waited for.
  __device__ void zero_non_finite(std::uint32_t values) {
    wait_for_copy_groups<0>();
    const int row = thread() / kPieces, piece = thread() % kPieces;
    for (int i = 0; i < Size::kKeys; i += kStep) {
      T* const eight =
          static_cast<T*>(__cvta_shared_to_generic(values + piece / 8 * Size::kKeySlab + swizzled(row + i, piece % 8)));
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (!is_finite(value_of(eight[e]))) eight[e] = element_of<T>(0);
      }
    }
  }

  /// What is waited for may be what those wait for who wait for a copy: none is kept back meanwhile.
  __device__ void wait_for(const PhaseBarrier& barrier, std::uint32_t parity) {
    if (!barrier.is_complete(parity)) make_all_known();
    barrier.wait(parity);
  }
  __device__ void make_known_later(PhaseBarrier* barrier) {
    wait_for_copy_groups<2>();
    make_known(before_last_);
    before_last_ = last_;
    last_ = barrier;
  }
  __device__ void make_all_known() {
    wait_for_copy_groups<0>();
    make_known(before_last_);
    make_known(last_);
    before_last_ = last_ = nullptr;
  }
  __device__ static void make_known(PhaseBarrier* barrier) {
    if (barrier == nullptr) return;
    show_to_products();
    barrier->arrive();
  }
  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroup; }

  const Attention& args_;
  const Shared& shared_;
  std::uint32_t tiles_ = 0;
  Turn turn_;
  PhaseBarrier* before_last_ = nullptr;  // of copies on their way
  PhaseBarrier* last_ = nullptr;
};

/// A computing warpgroup: `group` 0 or 1, which says which half of a tile's queries it has.
template <typename T, int kDim>
class Computer {
 public:
  __device__ Computer(const Attention& args, const Shared& shared, int group)
      : args_(args),
        shared_(shared),
        group_(group),
        thread_(static_cast<int>(threadIdx.x) % kGroup),
        scale_(static_cast<float>(args.scaling) * kLog2E) {}

  /// All of the block's tiles. See spread_non_finite for `clean`.
  __device__ void sweep(bool clean) {
    for_each_tile<T>(args_, [&](const TileView<T>& tile) { compute_tile(tile, clean); });
  }

 private:
  using Size = Sizes<kDim>;
  static constexpr int kKeys = Size::kKeys;
  using Scores = float[kKeys / 8][4];
  using Weights = std::uint32_t[kKeys / 16][4];
  using Out = float[kDim / 8][4];

  __device__ void compute_tile(const TileView<T>& tile, bool clean) {
    Barriers& barriers = *shared_.barriers;
    const int first_query = tile.first_query + group_ * kRows + thread_ / 32 * 16;  // of the warp
    const int end = min(tile.first_query + kQueries, tile.length);
    int key = tile.first_seen(tile.first_query) / kKeys * kKeys;
    Out out = {};
    Scores scores = {};
    Weights weights;
    RowState rows;
    float factor[2];
    rows.clear();

    barriers.queries_are_here.wait(tiles_++ % 2);
    barriers.keys_are_here[keys_.place()].wait(keys_.parity());
    begin_scores(scores);
    wait_for_products<0>();
    hold_registers<kKeys>(scores);
    done_with(barriers.keys_are_read[keys_.place()]);
    ++keys_.n;
    if (key + kKeys >= end) done_with(barriers.queries_are_read);
    take_scores(scores, rows, factor, tile, first_query, key);
    round_all(weights, scores);
    if (key + kKeys < end) barriers.keys_are_here[keys_.place()].wait(keys_.parity());
    for (key += kKeys; key < end; key += kKeys) {
      wait_for_turn();
      begin_scores(scores);
      follow_maximum<kDim>(out, factor);
      barriers.values_are_here[values_.place()].wait(values_.parity());
      begin_values(out, weights);
      pass_turn();
      wait_for_products<1>();
      hold_registers<kKeys>(scores);
      done_with(barriers.keys_are_read[keys_.place()]);
      ++keys_.n;
      if (key + kKeys >= end) done_with(barriers.queries_are_read);
      take_scores(scores, rows, factor, tile, first_query, key);
      hold_registers<kKeys>(scores);
      // The next keys are waited for here because ptxas would end the product before the exponentials otherwise: it
      // moves that wait as far up as there is no branch.
      if (key + kKeys < end) barriers.keys_are_here[keys_.place()].wait(keys_.parity());
      wait_for_products<0>();
      hold_registers<kDim>(out);
      done_with(barriers.values_are_read[values_.place()]);
      ++values_.n;
      round_all(weights, scores);
    }
    follow_maximum<kDim>(out, factor);
    barriers.values_are_here[values_.place()].wait(values_.parity());
    begin_values(out, weights);
    wait_for_products<0>();
    hold_registers<kDim>(out);
    done_with(barriers.values_are_read[values_.place()]);
    ++values_.n;

    divide_by_sum<kDim>(out, rows);
    if (!is_finite<kDim>(out, tile, first_query)) atomicOr(shared_.found_non_finite, 1);
    store_rows<kDim>(out, tile, args_.out.row_stride, first_query, args_.head_dim);
    if (!clean) return;
    barriers.written[group_].arrive();
    barriers.written[group_].wait(cleaned_++ % 2);  // what is written next is written over this
    spread_non_finite(args_, tile, tile.first_query + group_ * kRows, kRows, thread_, kGroup);
  }

  __device__ void begin_scores(Scores& scores) {
    const std::uint64_t queries = describe_matrix(shared_.queries + group_ * kRows * 128, 0);
    const std::uint64_t keys = describe_matrix(shared_.keys + keys_.place() * Size::kKeyBytes, 0);
    begin_products();
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      const std::uint32_t slab = d / kColumns, within = d % kColumns * 2;
      begin_product<T>(scores, moved_by(queries, slab * Size::kQuerySlab + within),
                       moved_by(keys, slab * Size::kKeySlab + within), d > 0);
    }
    commit_products();
  }

  __device__ void begin_values(Out& out, const Weights& weights) {
    constexpr int kAtOnce = kDim <= 128 ? kDim : 128;  // columns of a product
    const std::uint64_t values = describe_matrix(shared_.values + values_.place() * Size::kKeyBytes, Size::kKeySlab);
    begin_products();
#pragma unroll
    for (int key = 0; key < kKeys; key += 16) {
#pragma unroll
      for (int d = 0; d < kDim; d += kAtOnce) {
        begin_product<T>(reinterpret_cast<float(&)[kAtOnce / 8][4]>(out[d / 8]), weights[key / 16],
                         moved_by(values, d / kColumns * Size::kKeySlab + key * 128));
      }
    }
    commit_products();
  }

  __device__ void take_scores(Scores& scores, RowState& rows, float (&factor)[2], const TileView<T>& tile,
                              int first_query, int key) {
    const bool sees_all = tile.sees(first_query, key + kKeys - 1) && tile.sees(first_query + 15, key);
    if (!sees_all) hide_unseen<T, kKeys>(scores, tile, first_query, key);
    take_exponentials<kKeys>(scores, rows, factor, scale_);
  }

  __device__ void round_all(Weights& weights, const Scores& scores) {
#pragma unroll
    for (int key = 0; key < kKeys; key += 16) round_weights<T, kKeys>(weights[key / 16], scores, key);
  }

  __device__ void done_with(PhaseBarrier& barrier) {
    if (thread_ % 32 == 0) barrier.arrive();
  }
  /// The first group begins: its barrier is a phase ahead.
  __device__ void wait_for_turn() { shared_.barriers->turns[group_].wait(turns_++ % 2 ^ (group_ == 0 ? 1 : 0)); }
  __device__ void pass_turn() { done_with(shared_.barriers->turns[1 - group_]); }

  const Attention& args_;
  const Shared& shared_;
  const int group_;
  const int thread_;
  const float scale_;
  std::uint32_t tiles_ = 0, turns_ = 0, cleaned_ = 0;
  Turn keys_, values_;
};

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 1) attention_wgmma_kernel(const Attention args) {
  using Size = Sizes<kDim>;
  extern __shared__ uint4 shared_memory[];
  __shared__ Barriers barriers;
  __shared__ int found_non_finite;
  const std::uint32_t begin = (shared_address(shared_memory) + 1023) / 1024 * 1024;
  const Shared shared{.queries = begin,
                      .keys = begin + Size::kQueryBytes,
                      .values = begin + Size::kQueryBytes + kPlaces * Size::kKeyBytes,
                      .barriers = &barriers,
                      .found_non_finite = &found_non_finite};
  if (threadIdx.x == 0) {
    constexpr int kWarps = kGroup / 32, kReaders = 2 * kWarps;  // a lane of each computing warp
    barriers.queries_are_here.init(kGroup);
    barriers.queries_are_read.init(kReaders);
    for (int place = 0; place < kPlaces; ++place) {
      barriers.keys_are_here[place].init(kGroup);
      barriers.keys_are_read[place].init(kReaders);
      barriers.values_are_here[place].init(kGroup);
      barriers.values_are_read[place].init(kReaders);
    }
    for (int group = 0; group < 2; ++group) {
      barriers.turns[group].init(kWarps);
      barriers.written[group].init(kGroup);
    }
    barriers.swept.init(kThreads);
    found_non_finite = 0;
  }
  __syncthreads();
  const int group = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kGroup, 0);
  const auto sweep_all = [&](auto& worker) {
    worker.sweep(false);
    barriers.swept.arrive();
    barriers.swept.wait(0);
    if (atomicOr(&found_non_finite, 0) != 0) worker.sweep(true);
  };
  if (group == 0) {
    give_back_registers<56>();
    Copier<T, kDim> copier(args, shared);
    sweep_all(copier);
  } else {
    take_registers<224>();
    Computer<T, kDim> computer(args, shared, group - 1);
    sweep_all(computer);
  }
}

template <typename T, int kDim>
void launch(const Attention& args, cudaStream_t stream) {
  constexpr int kBytes = Sizes<kDim>::kBytes;
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "prepare attention");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "prepare attention");
  allow_shared_memory(reinterpret_cast<const void*>(&attention_wgmma_kernel<T, kDim>), kBytes);
  const int tiles = args.num_tiles * args.num_heads;
  const auto blocks = static_cast<unsigned>(tiles < multiprocessors ? tiles : multiprocessors);
  attention_wgmma_kernel<T, kDim><<<blocks, kThreads, kBytes, stream>>>(args);
}

template <typename T>
void launch_for_head_dim(const Attention& args, cudaStream_t stream) {
  if (args.head_dim <= 64) return launch<T, 64>(args, stream);
  if (args.head_dim <= 128) return launch<T, 128>(args, stream);
  launch<T, 256>(args, stream);
}

}  // namespace

void attention_wgmma(const Attention& args, cudaStream_t stream) {
  if (args.dtype == Dtype::f16) return launch_for_head_dim<__half>(args, stream);
  launch_for_head_dim<__nv_bfloat16>(args, stream);
}

}  // namespace layerprobe::kernels
