#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "placement/place.h"

namespace layerprobe::placement {

/// `auto`: of all ways to split the devices into equal pipelines whose stages hold the model, the one that is
/// predicted to finish first, with the fewest stages where two are alike; where none holds it, one pipeline over all
/// devices that streams what does not fit.
/// Throws Error(resource) when a device has no room to stream even one layer, or so many replicas do not fit.
Placement place_evenly(const Request& request);

/// Spreads the modules that are not resident over the placement's devices, in unbroken shares of even predicted time.
/// Throws Error(resource) when they find no room.
void deal_streamed(const Request& request, Placement& placement);

/// Sets the number of waves that is predicted to finish first, as soon as a module is not resident.
void choose_waves(const Work& work, Placement& placement);

}  // namespace layerprobe::placement
