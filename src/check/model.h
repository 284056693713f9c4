#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "check/item.h"
#include "model/config.h"
#include "runtime/session.h"
#include "weights/checkpoint.h"

namespace layerprobe::check {

/// A checkpoint as far as it can be opened.
struct Model {
  Items items;
  std::optional<weights::Checkpoint> checkpoint;  // whose headers are valid
  bool is_understood = false;                     // config and tensors too: a run can be planned

  std::uint64_t bytes() const;  // of its files
};

/// Config, index, every shard's header and size, tensors against the config, tokenizer. `reads_text`: the run has
/// prompts to encode.
Model check_model(const std::string& model, bool reads_text);

/// Reads every byte of the files, several at once, and holds those whose SHA-256 the Hugging Face cache has (in the
/// name of the blob, or in the .metadata beside a download) against it. `read` is told how many bytes there are in all,
/// and how many have been read; what it throws ends the reading.
Items check_bytes(const weights::Checkpoint& checkpoint,
                  const std::function<void(std::uint64_t done, std::uint64_t all)>& read);

/// The SHA-256 in lower-case hex that such a file should have; empty where nothing says so.
std::string expected_sha256(const std::filesystem::path& file);

}  // namespace layerprobe::check
