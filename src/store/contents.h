#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "store/measures.h"
#include "store/writer.h"

namespace layerprobe::store {

/// Where the bytes of a dataset lie: inside the file, all of them.
struct Extent {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

/// What a file says it is, every number of it checked against the others and against the file's size.
struct Contents {
  Attributes attributes;  // of "/", and what was known at the end
  Prompts prompts;
  CapturedRows rows;
  std::vector<Layout::Point> points;
  std::vector<Extent> captures;         // [points], empty for points that are not stored
  std::vector<std::uint8_t> completed;  // [points, prompts], 0 or 1; empty: all are complete
  bool is_finished = false;

  // Datasets that are written to and read later. Nothing where the file was not written by a Writer and has none.
  std::optional<Extent> completion;
  std::optional<std::array<Extent, kMeasures.size()>> per_prompt, totals;
  std::optional<Extent> mean, std;
  std::int64_t num_experts = 0;
  std::vector<std::size_t> expert_points;  // indices into points, one a row of expert_counts
  Extent expert_counts;
  std::int64_t top_k = 0;
  Extent top_k_ids, top_k_logits, top_k_text_offsets, top_k_text_bytes;
  std::optional<Extent> end_finished, end_information;

  std::size_t index(std::size_t point, std::int64_t prompt) const {
    return point * static_cast<std::size_t>(prompts.num_prompts()) + static_cast<std::size_t>(prompt);
  }
  bool is_complete(std::size_t point, std::int64_t prompt) const {
    return completed.empty() || completed[index(point, prompt)] == 1;
  }
  /// How many rows the point has of the prompts before `prompt`: its rows are those of its dataset, or all tokens.
  std::int64_t first_row(std::size_t point, std::int64_t prompt) const {
    return (points[point].stored ? rows.cu_rows : prompts.cu_seqlens)[static_cast<std::size_t>(prompt)];
  }
  std::uint64_t row_bytes(std::size_t point) const {
    return static_cast<std::uint64_t>(points[point].point.width) * size_of(points[point].point.dtype);
  }
  /// How many bytes of captures are complete.
  std::uint64_t complete_bytes() const;
  std::uint64_t capture_bytes() const;
};

/// Reads everything but captures and statistics. Throws Error(input), with file and dataset, at the first thing that is
/// not as store/format.h says.
Contents read_contents(const File& file);

}  // namespace layerprobe::store
