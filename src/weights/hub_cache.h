#pragma once

#include <filesystem>
#include <string>

namespace layerprobe::weights {

/// Whether `model` can be the name of a model on the Hub: "org/name", of letters, digits, '-', '_' and '.'.
bool is_hub_id(const std::string& model);

/// The snapshot of `id` in the local Hugging Face cache: "models--org--name/snapshots/<revision>" in HF_HUB_CACHE,
/// HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub, the first that has
/// it; the revision of refs/main, else the only one. Reads the disk only, never fetches. Throws Error(input) with all
/// the places it looked in.
std::filesystem::path find_in_hub_cache(const std::string& id);

}  // namespace layerprobe::weights
