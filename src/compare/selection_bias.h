#pragma once

#include <functional>
#include <vector>

namespace layerprobe::compare {

/// Of the router of that layer, which chooses the experts with the largest sigmoid(logit) + bias: their biases. Empty
/// where it does not choose so, or it is not known; an empty function: of none.
using SelectionBias = std::function<std::vector<double>(int layer)>;

}  // namespace layerprobe::compare
