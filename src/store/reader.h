#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/probe_point.h"
#include "base/prompts.h"
#include "base/statistics.h"
#include "store/writer.h"

namespace layerprobe::store {

/// Reads a finished or partial file, ours or scripts/capture_hf.py's. Checks everything it takes from the file: a
/// damaged or hostile one is an Error(input), never a crash. Opening is one thread; the const members any thread.
class Reader {
 public:
  explicit Reader(std::filesystem::path path);
  ~Reader();
  Reader(Reader&&) noexcept;

  const std::filesystem::path& path() const;
  bool is_finished() const;  // false: a partial file
  /// Every attribute of "/".
  const Attributes& attributes() const;
  const Prompts& prompts() const;
  const CapturedRows& rows() const;
  /// The points in the file's order; `stored` is false for those with statistics only.
  const std::vector<Layout::Point>& points() const;
  /// Index into points(); nothing when there is none of that name.
  std::optional<std::size_t> find(std::string_view name) const;
  bool is_complete(std::size_t point, std::int64_t prompt) const;
  /// How many of the file's bytes are captures that are complete, and how many captures take in all.
  std::uint64_t complete_bytes() const;
  std::uint64_t capture_bytes() const;
  /// Of the point over all complete prompts.
  const Statistics& statistics(std::size_t point) const;

  /// Of a finished file and a point that holds each token's chosen experts: how many of its rows chose each expert.
  /// Empty where nothing is known.
  std::vector<std::int64_t> expert_counts(std::size_t point) const;

  /// Of each prompt, row numbers counted from its first; where they are there. Throws Error(input) for what cannot be.
  std::vector<Statistics> statistics_of_prompts(std::size_t point) const;
  bool has_statistics_of_prompts() const;

  /// Rows [first_row, first_row + num_rows) of a stored point, row-major, in its dtype, from page cache or disk at full
  /// rate (pread at the dataset's offset). `out` is num_rows * width * size_of(dtype) bytes.
  void read_rows(std::size_t point, std::int64_t first_row, std::int64_t num_rows, std::span<std::byte> out) const;

  /// Of `full`; empty when the file has no /topk.
  struct TopK {
    std::int64_t k = 0;
    std::vector<std::int32_t> ids;   // [num_rows, k]
    std::vector<float> logits;       // [num_rows, k]
    std::vector<std::string> texts;  // [num_rows * k]; empty ones in a partial file
  };
  TopK top_k() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace layerprobe::store
