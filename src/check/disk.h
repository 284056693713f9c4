#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "check/item.h"

namespace layerprobe::check {

/// The folder that a file is to be written to.
struct WriteTrial {
  std::filesystem::path folder;
  std::uint64_t free_bytes = 0;
  bool is_in_memory = false;
  bool is_direct = false;  // past the page cache (O_DIRECT)
  double rate = 0;         // bytes a second; 0: it was not measured
};
/// Writes a file without a name of up to `bytes` there, for at most some seconds, and reads its first bytes back.
/// Throws Error(resource) when that is refused.
WriteTrial try_writing(const std::filesystem::path& folder, std::uint64_t bytes);
/// `needed_bytes`: of the run's output; nothing: it is not known.
Items judge_writing(const WriteTrial& trial, std::optional<std::uint64_t> needed_bytes);

struct ReadTrial {
  std::uint64_t bytes = 0;
  bool is_in_memory = false;
  bool is_direct = false;  // past the page cache
  double rate = 0;
};
/// Reads up to `bytes` of the largest of the files with several threads, for at most some seconds.
ReadTrial try_reading(const std::vector<std::filesystem::path>& files, std::uint64_t bytes);
Item judge_reading(const ReadTrial& trial, std::uint64_t checkpoint_bytes);

}  // namespace layerprobe::check
