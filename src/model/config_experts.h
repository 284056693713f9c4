#pragma once

#include "model/architectures.h"
#include "model/config.h"
#include "model/config_reader.h"

namespace layerprobe::model {

/// The experts of a family that has them, from their keys of config.json; nothing for another family. `out` has the
/// shapes already. Throws Error(input) as read_config does.
std::optional<ExpertsConfig> read_experts(ConfigReader& reader, const Architecture& family, const ModelConfig& out);

/// Throws Error(input) unless each of the family's fixed keys that is there has its value.
void check_fixed_keys(ConfigReader& reader, const Architecture& family);

}  // namespace layerprobe::model
