#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/probe_point.h"
#include "model/config.h"

namespace layerprobe::model {

/// A value inside a decoder layer, by what its name adds to the layer's, "model.layers.K": "" is what leaves the layer,
/// ":input" what enters it.
struct LayerPoint {
  std::string_view suffix;
  std::int64_t width;
  Dtype dtype;
  /// The suffix under which decoder_layer.cpp shows the value: its own, or another name of the same value.
  std::string_view value;
};

/// All of a layer, in the order of the forward pass. `dtype` is the run's.
std::vector<LayerPoint> layer_points(const ModelConfig& config, std::int64_t layer, Dtype dtype);

/// Every point of the model, in the order of the forward pass: model.embed_tokens, the layers', model.norm and lm_head
/// with their inputs. `dtype` is the run's.
std::vector<ProbePoint> all_points(const ModelConfig& config, Dtype dtype);

/// "model.layers.17" + suffix, with ModelConfig::decoder for "model".
std::string layer_point_name(const ModelConfig& config, std::int64_t layer, std::string_view suffix);

}  // namespace layerprobe::model
