#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "weights/gguf_header.h"
#include "weights/tensor_info.h"

namespace layerprobe::weights {

/// What a config.json would say of this model, as transformers 4 spells it. A llama file with a sliding window is a
/// Mistral. `tensors` are those of all files, under GGUF's names. Throws Error(input) with `where` for an architecture
/// we do not know, a key that is missing or out of range, and a key of the architecture that we do not know, since it
/// may change what the model computes.
Json gguf_config(const GgufHeader& header, const std::vector<TensorInfo>& tensors, const std::string& where);

/// Gives `tensors` transformers' names (a name outside the map keeps GGUF's, as rope_freqs.weight does) and sets
/// interleaved_heads of llama's q and k. Throws Error(input) when their rows are not whole heads.
void use_transformers_names(std::vector<TensorInfo>& tensors, const GgufHeader& header, const Json& config,
                            const std::string& where);

}  // namespace layerprobe::weights
