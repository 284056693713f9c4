#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/file.h"
#include "base/statistics.h"
#include "store/contents.h"

namespace layerprobe::store {

/// The name of a measure that `statistics` of that many rows and elements a row cannot have (a row outside the rows,
/// more NaN than elements); nullptr when all are possible. `rows` * `width` must not overflow.
const char* impossible_measure(const Statistics& statistics, std::int64_t rows, std::int64_t width);

/// The statistics of the point's rows of each prompt, from /statistics/per_prompt, which is there. Of a prompt that is
/// not complete they mean nothing.
std::vector<Statistics> statistics_of_point(const File& file, const Contents& contents, std::size_t point);

/// The statistics of every point over its complete prompts, put together in order from /statistics/per_prompt. Without
/// that group all are empty.
std::vector<Statistics> joined_statistics(const File& file, const Contents& contents);

/// The totals that a finished file holds, of every point; without them all are empty.
std::vector<Statistics> read_totals(const File& file, const Contents& contents);

/// Writes the totals of every point, mean and std too.
void write_totals(const File& file, const Contents& contents, std::span<const Statistics> totals);

}  // namespace layerprobe::store
