#pragma once

#include <vector>

#include "placement/place.h"

namespace layerprobe::placement {

/// Where the map's names send each module of the run: the longest dotted prefix decides. A name may be a module or
/// what is above it, "" for all; a module's only parameter ("lm_head.weight"); with model.language_model. where a
/// vision-language model has that; without the leading "model." where a base model was exported so.
/// Throws Error(usage) for an unknown name (with the nearest), a part of a layer, two names of one module, and modules
/// under no name.
std::vector<Target> targets_by_name(const Request& request);

}  // namespace layerprobe::placement
