// Rows are dealt to the threads in blocks; a block's rows are added in order, then the blocks in order. Where blocks
// end depends on the number of rows alone, so that the sums do not depend on the number of threads.
//
// A block is read in pieces that stay in a core's own cache: at 256 KiB a side, two bf16 files in the page cache pass
// at 4.6 GB/s a core, both counted, of which pread takes half (AMD EPYC Zen 4; `layerprobe compare` of two 4 GB files).
#include "compare/point_difference.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <exception>
#include <optional>
#include <span>
#include <vector>

#include "base/probe_point.h"
#include "compare/logits.h"
#include "compare/row_comparer.h"
#include "compare/sample.h"

namespace layerprobe::compare {
namespace {

constexpr std::int64_t kMinBlockRows = 64;
constexpr std::int64_t kMaxBlocks = 4096;
constexpr std::int64_t kMinElementsForThreads = 1 << 16;  // fewer are done before another thread has woken up
constexpr std::int64_t kPieceBytes = 256 << 10;

/// A point in both files, and which rows of it are shared.
struct Pair {
  const store::Reader& reference;
  const store::Reader& candidate;
  std::size_t reference_point;
  std::size_t candidate_point;
  const std::vector<RowRun>& runs;
  std::vector<std::int64_t> first_row;  // of each run, counted over the shared rows
  Massive massive;
  Heatmap* heatmap;
  std::span<const std::uint8_t> rerouted;

  const ProbePoint& in_reference() const { return reference.points()[reference_point].point; }
  const ProbePoint& in_candidate() const { return candidate.points()[candidate_point].point; }
  bool are_logits() const {
    return semantics_of(in_reference().name) == "logits" && in_reference().dtype != Dtype::i32 &&
           in_reference().width > 1;
  }
};

/// Squares of the tokens that kept their experts, and of those that did not.
struct RouteSums {
  std::int64_t num_rerouted = 0;
  double same_difference = 0, same_reference = 0, rerouted_difference = 0, rerouted_reference = 0;

  void add(const RowError& error, bool is_rerouted) {
    num_rerouted += is_rerouted;
    (is_rerouted ? rerouted_difference : same_difference) += error.difference_squares;
    (is_rerouted ? rerouted_reference : same_reference) += error.reference_squares;
  }
  void append(const RouteSums& next) {
    num_rerouted += next.num_rerouted;
    same_difference += next.same_difference;
    same_reference += next.same_reference;
    rerouted_difference += next.rerouted_difference;
    rerouted_reference += next.rerouted_reference;
  }
};

/// Of rows that stand one after the other.
struct Sums {
  Partial values;
  LogitsPartial logits;  // of lm_head
  RouteSums routes;      // behind a router

  void append(const Sums& next) {
    values.append(next.values);
    logits.append(next.logits);
    routes.append(next.routes);
  }
};

/// Reads pieces of rows into memory of its own and has them compared.
class BlockReader {
 public:
  explicit BlockReader(const Pair& pair)
      : pair_(pair),
        comparer_(pair.in_reference().dtype, pair.in_candidate().dtype, pair.in_reference().width, pair.massive),
        reference_row_bytes_(row_bytes(pair.in_reference())),
        candidate_row_bytes_(row_bytes(pair.in_candidate())) {
    if (pair.are_logits()) {
      logits_.emplace(pair.in_reference().dtype, pair.in_candidate().dtype, pair.in_reference().width);
    }
    const std::size_t larger = std::max(reference_row_bytes_, candidate_row_bytes_);
    piece_rows_ = std::max<std::int64_t>(1, kPieceBytes / static_cast<std::int64_t>(std::max<std::size_t>(1, larger)));
    reference_rows_.resize(static_cast<std::size_t>(piece_rows_) * reference_row_bytes_);
    candidate_rows_.resize(static_cast<std::size_t>(piece_rows_) * candidate_row_bytes_);
  }

  /// Of the shared rows [first, end).
  Sums sums_of(std::int64_t first, std::int64_t end) {
    Sums sums;
    const auto after = std::upper_bound(pair_.first_row.begin(), pair_.first_row.end(), first);
    for (auto run = static_cast<std::size_t>(after - pair_.first_row.begin() - 1); first < end; ++run) {
      const RowRun& rows = pair_.runs[run];
      const std::int64_t skipped = first - pair_.first_row[run];
      const std::int64_t count = std::min(rows.count - skipped, end - first);
      add({.reference_row = rows.reference_row + skipped,
           .candidate_row = rows.candidate_row + skipped,
           .count = count},
          first, sums);
      first += count;
    }
    return sums;
  }

  const TokenErrors& token_errors() const { return token_errors_; }
  const std::array<std::int64_t, kUlpBuckets>& ulps() const { return comparer_.ulps(); }
  const std::optional<LogitsComparer>& logits() const { return logits_; }

 private:
  static std::size_t row_bytes(const ProbePoint& point) {
    return static_cast<std::size_t>(point.width) * size_of(point.dtype);
  }

  /// `shared_row` is the first one's place among the shared rows.
  void add(RowRun rows, std::int64_t shared_row, Sums& sums) {
    while (rows.count > 0) {
      const std::int64_t count = std::min(rows.count, piece_rows_);
      const auto size = static_cast<std::size_t>(count);
      pair_.reference.read_rows(pair_.reference_point, rows.reference_row, count,
                                std::span(reference_rows_).first(size * reference_row_bytes_));
      pair_.candidate.read_rows(pair_.candidate_point, rows.candidate_row, count,
                                std::span(candidate_rows_).first(size * candidate_row_bytes_));
      for (std::size_t i = 0; i < size; ++i) {
        const std::byte* const reference = reference_rows_.data() + i * reference_row_bytes_;
        const std::byte* const candidate = candidate_rows_.data() + i * candidate_row_bytes_;
        const std::int64_t row = rows.reference_row + static_cast<std::int64_t>(i);
        const bool is_rerouted = !pair_.rerouted.empty() && pair_.rerouted[static_cast<std::size_t>(row)] != 0;
        const RowError error = comparer_.add(reference, candidate, row, is_rerouted, sums.values);
        if (!pair_.rerouted.empty()) sums.routes.add(error, is_rerouted);
        if (logits_) logits_->add(reference, candidate, row, sums.logits);
        token_errors_.add(error.rel_l2);
        if (pair_.heatmap != nullptr) pair_.heatmap->add(shared_row, error.rel_l2, error.is_unmatched);
        ++shared_row;
      }
      rows.reference_row += count;
      rows.candidate_row += count;
      rows.count -= count;
    }
  }

  const Pair& pair_;
  RowComparer comparer_;
  std::optional<LogitsComparer> logits_;
  TokenErrors token_errors_;
  std::size_t reference_row_bytes_, candidate_row_bytes_;
  std::int64_t piece_rows_ = 1;
  std::vector<std::byte> reference_rows_, candidate_rows_;
};

/// Of all rows: what is put together in order, and counts, for which the order does not matter.
struct Whole {
  Sums sums;
  TokenErrors token_errors;
  TokenErrors kl, gaps;
  std::array<std::int64_t, kUlpBuckets> ulps{};
};

/// All blocks, on all cores.
Whole whole_of(const Pair& pair, std::int64_t num_rows, const std::function<void(std::int64_t)>& rows_done) {
  const std::int64_t block_rows = std::max(kMinBlockRows, (num_rows + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t num_blocks = (num_rows + block_rows - 1) / block_rows;
  std::vector<Sums> sums(static_cast<std::size_t>(num_blocks));
  Whole whole;
  std::exception_ptr failure;
  std::atomic<bool> has_failed = false;
  const bool is_much = num_rows * pair.in_reference().width > kMinElementsForThreads;
#pragma omp parallel if (num_blocks > 1 && is_much)
  {
    std::optional<BlockReader> reader;
#pragma omp for schedule(dynamic)
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      if (has_failed) continue;
      try {
        if (!reader) reader.emplace(pair);
        const std::int64_t first = block * block_rows;
        const std::int64_t end = std::min(first + block_rows, num_rows);
        sums[static_cast<std::size_t>(block)] = reader->sums_of(first, end);
#pragma omp critical(layerprobe_compare_rows_done)
        rows_done(end - first);
      } catch (...) {
        if (!has_failed.exchange(true)) failure = std::current_exception();
      }
    }
    if (reader) {
#pragma omp critical(layerprobe_compare_counts)
      {
        whole.token_errors.append(reader->token_errors());
        for (std::size_t i = 0; i < whole.ulps.size(); ++i) whole.ulps[i] += reader->ulps()[i];
        if (reader->logits()) {
          whole.kl.append(reader->logits()->kl());
          whole.gaps.append(reader->logits()->gaps());
        }
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
  for (const Sums& each : sums) whole.sums.append(each);
  return whole;
}

LogitsDifference logits_difference_of(const Whole& whole, const CapturedRows& rows, std::int64_t width) {
  const LogitsPartial& all = whole.sums.logits;
  const double count = std::max(1.0, static_cast<double>(all.num_rows));
  LogitsDifference out = {.num_rows = all.num_rows,
                          .num_left_out = all.num_left_out,
                          .kl_mean = all.kl_sum / count,
                          .kl_p99 = whole.kl.quantile(0.99, all.kl_max),
                          .kl_max = all.kl_max,
                          .num_same_top1 = all.num_same_top1,
                          .top_k = std::min(kLogitsTopK, width),
                          .gap_p50 = whole.gaps.quantile(0.5, all.gap_max),
                          .gap_max = all.gap_max};
  if (all.num_rows > 0) out.top_k_overlap = all.overlap_sum / count;
  if (all.kl_max_row >= 0) out.kl_max_at = token_of(rows, all.kl_max_row);
  if (all.gap_max_row >= 0) out.gap_max_at = token_of(rows, all.gap_max_row);
  return out;
}

}  // namespace

Difference difference_of(const store::Reader& reference, std::size_t reference_point, const store::Reader& candidate,
                         std::size_t candidate_point, const Alignment::Shared& shared,
                         const std::function<void(std::int64_t)>& rows_done, Heatmap* heatmap,
                         std::span<const std::uint8_t> rerouted) {
  Pair pair = {.reference = reference,
               .candidate = candidate,
               .reference_point = reference_point,
               .candidate_point = candidate_point,
               .runs = shared.runs,
               .first_row = {},
               .massive = {},
               .heatmap = heatmap,
               .rerouted = rerouted};
  pair.massive = massive_of(reference, reference_point,
                            sampled_rows(reference, shared.runs, sample_rows_for(pair.in_reference().width)));
  std::int64_t first_row = 0;
  for (const RowRun& run : shared.runs) {
    pair.first_row.push_back(first_row);
    first_row += run.count;
  }
  const Whole whole = whole_of(pair, shared.num_rows, rows_done);
  const Partial& all = whole.sums.values;

  Difference difference;
  difference.point = pair.in_reference().name;
  difference.reference_dtype = pair.in_reference().dtype;
  difference.candidate_dtype = pair.in_candidate().dtype;
  difference.judged_dtype = narrower(difference.reference_dtype, difference.candidate_dtype);
  difference.width = pair.in_reference().width;
  difference.num_prompts = shared.num_prompts;
  difference.num_incomplete_prompts = shared.num_incomplete_prompts;
  difference.num_rows = shared.num_rows;
  difference.max_abs_reference = all.max_abs_reference;
  difference.max_abs = all.max_abs;
  if (all.max_abs_row >= 0) {
    difference.max_abs_at = all.max_abs_at;
    difference.max_abs_at->token = token_of(reference.rows(), all.max_abs_row);
  }
  difference.rel_l2 = rel_l2_of(all.difference_squares, all.reference_squares);
  difference.raw_rel_l2 = rel_l2_of(all.raw_difference_squares, all.raw_reference_squares);
  if (all.difference_squares > 0) {
    const double norms = std::sqrt(all.reference_squares) * std::sqrt(all.candidate_squares);
    difference.cosine = norms > 0 ? std::clamp(all.products / norms, -1.0, 1.0) : 0.0;
  }
  difference.mean_abs = all.absolute_differences /
                        std::max(1.0, static_cast<double>(difference.num_rows) * static_cast<double>(difference.width));
  if (all.reference_squares > 0 && all.difference_squares > 0) difference.scale = all.products / all.reference_squares;
  // (r - c)^2 = r^2 + c^2 - 2 r c: without the cancellation of the usual form
  const double both_squares = all.reference_squares + all.candidate_squares;
  if (both_squares > 0) difference.calc_diff = all.difference_squares / both_squares;
  difference.rel_l2_without_massive = rel_l2_of(all.plain_difference_squares, all.plain_reference_squares);
  difference.massive_channels = pair.massive.channels;
  difference.num_sink_rows = all.num_sink_rows;
  difference.p50 = whole.token_errors.quantile(0.50, all.worst_rel_l2);
  difference.p99 = whole.token_errors.quantile(0.99, all.worst_rel_l2);
  if (difference.reference_dtype == difference.candidate_dtype && difference.judged_dtype != Dtype::i32) {
    difference.ulps = whole.ulps;
  }
  if (all.worst_row >= 0) {
    difference.worst_token = {.token = token_of(reference.rows(), all.worst_row), .rel_l2 = all.worst_rel_l2};
  }
  difference.reference_non_finite = all.reference_non_finite;
  difference.candidate_non_finite = all.candidate_non_finite;
  difference.unmatched_non_finite = all.unmatched_non_finite;
  if (all.unmatched_non_finite > 0) {
    difference.first_unmatched = all.first_unmatched;
    difference.first_unmatched->token = token_of(reference.rows(), all.first_unmatched_row);
  }
  if (!rerouted.empty()) {
    const RouteSums& routes = whole.sums.routes;
    difference.by_route = {.num_same = difference.num_rows - routes.num_rerouted,
                           .num_rerouted = routes.num_rerouted,
                           .same_rel_l2 = rel_l2_of(routes.same_difference, routes.same_reference),
                           .rerouted_rel_l2 = rel_l2_of(routes.rerouted_difference, routes.rerouted_reference)};
  }
  if (pair.are_logits()) difference.logits = logits_difference_of(whole, reference.rows(), difference.width);
  difference.bit_equal = all.bit_equal;
  return difference;
}

}  // namespace layerprobe::compare
