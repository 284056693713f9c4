#pragma once

#include <cstdint>
#include <vector>

#include "base/file.h"
#include "store/contents.h"

namespace layerprobe::store {

/// Are the point's rows each token's chosen experts, in the file?
bool holds_experts(const Layout::Point& point);

/// How often each expert was chosen in the rows of each of contents.expert_points, [points, num_experts], counted from
/// their captures: so it is the same whatever the batches, and whoever wrote them. Throws Error(input) where a row
/// names an expert that is not there.
std::vector<std::int64_t> count_experts(const File& file, const Contents& contents);

/// What a finished file says of one of contents.expert_points, by its place there: [num_experts].
std::vector<std::int64_t> read_expert_counts(const File& file, const Contents& contents, std::size_t at);

}  // namespace layerprobe::store
