#include "store/totals.h"

#include <cstdint>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::store {
namespace {

/// What is read may be damaged: a row, a column or a count that the point cannot have is refused before it is used.
void expect_possible(const File& file, const Statistics& statistics, std::int64_t rows, std::int64_t width,
                     const std::string& of) {
  const auto refuse = [&](const char* measure, std::int64_t found) {
    throw Error({.kind = ErrorKind::input,
                 .where = text(file.path().string(), ": /statistics: ", of, ": ", measure),
                 .what = text("is ", found, " where the point has ", rows, " rows of ", width),
                 .fix = "the file is damaged; make or fetch it again"});
  };
  const std::int64_t elements = rows * width;  // does not overflow: read_contents made sure
  if (statistics.count < 0 || statistics.count > elements) refuse("count", statistics.count);
  if (statistics.nan_count < 0 || statistics.nan_count > statistics.count) refuse("nan_count", statistics.nan_count);
  if (statistics.inf_count < 0 || statistics.inf_count > statistics.count - statistics.nan_count) {
    refuse("inf_count", statistics.inf_count);
  }
  if (statistics.abs_max_row < -1 || statistics.abs_max_row >= rows) refuse("abs_max_row", statistics.abs_max_row);
  if (statistics.abs_max_column < -1 || statistics.abs_max_column >= width) {
    refuse("abs_max_column", statistics.abs_max_column);
  }
  if (statistics.first_non_finite_row < -1 || statistics.first_non_finite_row >= rows) {
    refuse("first_non_finite_row", statistics.first_non_finite_row);
  }
}

/// `count` entries of each measure from entry `first` on.
std::vector<Statistics> read_measures(const File& file, const std::array<Extent, kMeasures.size()>& extents,
                                      std::size_t first, std::size_t count) {
  std::vector<Statistics> statistics(count);
  std::vector<std::uint64_t> bits(count);
  for (std::size_t m = 0; m < kMeasures.size(); ++m) {
    file.read_at(extents[m].offset + first * sizeof(std::uint64_t), std::as_writable_bytes(std::span(bits)));
    for (std::size_t i = 0; i < count; ++i) kMeasures[m].set(statistics[i], bits[i]);
  }
  return statistics;
}

}  // namespace

std::vector<Statistics> joined_statistics(const File& file, const Contents& contents) {
  std::vector<Statistics> joined(contents.points.size());
  if (!contents.per_prompt) return joined;
  const std::int64_t num_prompts = contents.prompts.num_prompts();
  for (std::size_t point = 0; point < joined.size(); ++point) {
    const std::vector<Statistics> per_prompt =
        read_measures(file, *contents.per_prompt, contents.index(point, 0), static_cast<std::size_t>(num_prompts));
    for (std::int64_t prompt = 0; prompt < num_prompts; ++prompt) {
      if (!contents.is_complete(point, prompt)) continue;
      const Statistics& statistics = per_prompt[static_cast<std::size_t>(prompt)];
      if (statistics.count == 0) continue;  // no rows: all measures are zero, which min and max must not take in
      const std::int64_t first_row = contents.first_row(point, prompt);
      const ProbePoint& described = contents.points[point].point;
      expect_possible(file, statistics, contents.first_row(point, prompt + 1) - first_row, described.width,
                      text(described.name, ", prompt ", prompt));
      joined[point].append(statistics, first_row);
    }
  }
  return joined;
}

std::vector<Statistics> read_totals(const File& file, const Contents& contents) {
  if (!contents.totals) return std::vector<Statistics>(contents.points.size());
  std::vector<Statistics> totals = read_measures(file, *contents.totals, 0, contents.points.size());
  for (std::size_t point = 0; point < totals.size(); ++point) {
    const ProbePoint& described = contents.points[point].point;
    expect_possible(file, totals[point], contents.first_row(point, contents.prompts.num_prompts()), described.width,
                    described.name);
  }
  return totals;
}

void write_totals(const File& file, const Contents& contents, std::span<const Statistics> totals) {
  std::vector<std::uint64_t> bits(totals.size());
  for (std::size_t m = 0; m < kMeasures.size(); ++m) {
    for (std::size_t point = 0; point < totals.size(); ++point) bits[point] = kMeasures[m].bits_of(totals[point]);
    file.write_at((*contents.totals)[m].offset, std::as_bytes(std::span(bits)));
  }
  std::vector<double> mean, std;
  for (const Statistics& statistics : totals) {
    mean.push_back(statistics.mean());
    std.push_back(statistics.std());
  }
  file.write_at(contents.mean->offset, std::as_bytes(std::span(mean)));
  file.write_at(contents.std->offset, std::as_bytes(std::span(std)));
}

}  // namespace layerprobe::store
