#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/file.h"
#include "base/statistics.h"
#include "store/contents.h"

namespace layerprobe::store {

/// The statistics of every point over its complete prompts, put together in order from /statistics/per_prompt. Without
/// that group all are empty.
std::vector<Statistics> joined_statistics(const File& file, const Contents& contents);

/// The totals that a finished file holds, of every point; without them all are empty.
std::vector<Statistics> read_totals(const File& file, const Contents& contents);

/// Writes the totals of every point, mean and std too.
void write_totals(const File& file, const Contents& contents, std::span<const Statistics> totals);

}  // namespace layerprobe::store
