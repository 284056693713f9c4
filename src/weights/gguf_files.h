#pragma once

#include <filesystem>
#include <vector>

#include "base/file.h"
#include "weights/gguf_header.h"

namespace layerprobe::weights {

/// A GGUF and, when it is the first of a split one (name-00001-of-000NN.gguf, keys split.*), all files after it.
struct GgufFiles {
  std::vector<File> files;
  GgufHeader header;                // the first file's
  std::vector<TensorInfo> tensors;  // of all files, GGUF's names
};

/// Throws Error(input) when a part is missing, of another split, or the parts do not hold the tensors they should.
GgufFiles open_gguf_files(const std::filesystem::path& path);

/// "SmolLM2-135M.Q4_1" of "SmolLM2-135M.Q4_1-00001-of-00003.gguf".
std::string gguf_model_name(const std::filesystem::path& path);

}  // namespace layerprobe::weights
