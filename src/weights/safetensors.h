#pragma once

#include <filesystem>
#include <vector>

#include "base/file.h"
#include "weights/tensor_info.h"

namespace layerprobe::weights {

/// The tensors that a safetensors file's header lists, in the header's order, with `file_index` as their file. Reads
/// the header only. The format (huggingface/safetensors): u64 little-endian N, N bytes of JSON
/// {name: {dtype, shape, data_offsets: [begin, end]}}, then the data, which offsets count from.
///
/// Throws Error(input), naming file and tensor, unless the header is JSON of at most 100 MB inside the file, each dtype
/// is known, each tensor's bytes are what dtype and shape say, and the tensors cover the data without overlap or gap.
std::vector<TensorInfo> read_safetensors_header(const File& file, int file_index);

/// A model folder's weights.
struct SafetensorsFolder {
  std::vector<File> files;
  std::vector<TensorInfo> tensors;  // in no order
};

/// model.safetensors, else the shards of model.safetensors.index.json, else the folder's only *.safetensors. The index
/// may name plain files of this folder only: no path, no link to outside (but for a Hugging Face cache's links to its
/// own blobs). Throws Error(input) for a shard or tensor of the index that is missing, and when there are no weights.
SafetensorsFolder open_safetensors_folder(const std::filesystem::path& folder);

}  // namespace layerprobe::weights
