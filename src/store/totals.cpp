#include "store/totals.h"

#include <cstdint>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::store {
namespace {

/// What is read may be damaged.
void expect_possible(const File& file, const Statistics& statistics, std::int64_t rows, std::int64_t width,
                     const std::string& of) {
  const char* const measure = impossible_measure(statistics, rows, width);
  if (measure == nullptr) return;
  throw Error({.kind = ErrorKind::input,
               .where = text(file.path().string(), ": /statistics: ", of, ": ", measure),
               .what = text("has a value that ", rows, " rows of ", width, " cannot give"),
               .fix = "the file is damaged; make or fetch it again"});
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

const char* impossible_measure(const Statistics& statistics, std::int64_t rows, std::int64_t width) {
  const auto outside = [](std::int64_t value, std::int64_t least, std::int64_t end) {
    return value < least || value >= end;
  };
  if (outside(statistics.count, 0, rows * width + 1)) return "count";
  if (outside(statistics.nan_count, 0, statistics.count + 1)) return "nan_count";
  if (outside(statistics.inf_count, 0, statistics.count - statistics.nan_count + 1)) return "inf_count";
  if (statistics.count == 0) return nullptr;
  if (outside(statistics.abs_max_row, -1, rows)) return "abs_max_row";
  if (outside(statistics.abs_max_column, -1, width)) return "abs_max_column";
  if (outside(statistics.first_non_finite_row, -1, rows)) return "first_non_finite_row";
  return nullptr;
}

std::vector<Statistics> statistics_of_point(const File& file, const Contents& contents, std::size_t point) {
  const std::int64_t num_prompts = contents.prompts.num_prompts();
  std::vector<Statistics> statistics =
      read_measures(file, *contents.per_prompt, contents.index(point, 0), static_cast<std::size_t>(num_prompts));
  const ProbePoint& described = contents.points[point].point;
  for (std::int64_t prompt = 0; prompt < num_prompts; ++prompt) {
    if (!contents.is_complete(point, prompt)) continue;
    expect_possible(file, statistics[static_cast<std::size_t>(prompt)],
                    contents.first_row(point, prompt + 1) - contents.first_row(point, prompt), described.width,
                    text(described.name, ", prompt ", prompt));
  }
  return statistics;
}

std::vector<Statistics> joined_statistics(const File& file, const Contents& contents) {
  std::vector<Statistics> joined(contents.points.size());
  if (!contents.per_prompt) return joined;
  const std::int64_t num_prompts = contents.prompts.num_prompts();
  for (std::size_t point = 0; point < joined.size(); ++point) {
    const std::vector<Statistics> per_prompt = statistics_of_point(file, contents, point);
    for (std::int64_t prompt = 0; prompt < num_prompts; ++prompt) {
      if (!contents.is_complete(point, prompt)) continue;
      const Statistics& statistics = per_prompt[static_cast<std::size_t>(prompt)];
      if (statistics.count == 0) continue;  // nothing is known: its min and max mean nothing
      joined[point].append(statistics, contents.first_row(point, prompt));
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
