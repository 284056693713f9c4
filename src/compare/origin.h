#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "compare/align.h"
#include "compare/compare.h"

namespace layerprobe::compare {

/// Fills Difference::added: rel_l2 less that of what entered the block.
void fill_added(std::vector<Difference>& differences);

/// Both files and what they share: what a finding is made of.
struct Files {
  const store::Reader& reference;
  const store::Reader& candidate;
  const Alignment& alignment;
  std::map<std::string, std::size_t> reference_points, candidate_points;  // by canonical name
};

/// Where the first difference that does not agree comes from. Tries, before it blames a layer: do another layer's
/// values stand under its name, was the last layer taken behind the norm? Then follows the error back along the
/// residual stream to the layer that added most of it, and looks at some of that point's rows.
Finding find_origin(const Files& files, const std::vector<Difference>& differences, const Difference& first);

}  // namespace layerprobe::compare
