#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "check/item.h"

namespace layerprobe::check {

/// What the operating system gives a program.
struct HostState {
  std::uint64_t total_bytes = 0;      // of memory; 0: not known
  std::uint64_t available_bytes = 0;  // without swapping
  /// Of the control group (a container's, Slurm's): what may be taken in all; nothing: no limit.
  std::optional<std::uint64_t> group_limit_bytes;
  std::uint64_t group_used_bytes = 0;
  std::optional<std::uint64_t> locked_limit_bytes;  // ulimit -l; nothing: no limit
  std::optional<std::uint64_t> shm_bytes;           // of /dev/shm in all; nothing: there is none
  std::uint64_t shm_free_bytes = 0;
  std::uint64_t open_files_limit = 0;  // ulimit -n, soft
  std::uint64_t most_open_files = 0;   // hard
};
HostState read_host();

/// What a run takes of it.
struct HostNeeds {
  std::size_t num_gpus = 0;
  std::uint64_t files = 0;         // of the checkpoint
  std::uint64_t pinned_bytes = 0;  // for captures on their way to the file, of all devices
};
Items judge_host(const HostState& host, const HostNeeds& needs);

}  // namespace layerprobe::check
