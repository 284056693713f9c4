#pragma once

#include <filesystem>
#include <string>

namespace layerprobe::cli {

/// Prints what a captured run holds. Throws Error(input) when it is none or damaged.
void inspect_capture(const std::filesystem::path& path, bool json);

/// Prints what a model (a folder, a .gguf file, an org/name id) is made of; every tensor with `all_tensors`.
void inspect_model(const std::string& model, bool all_tensors, bool json);

}  // namespace layerprobe::cli
