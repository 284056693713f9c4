#include "check/host.h"

#include <sys/resource.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "base/text.h"
#include "device/cpu/memory.h"

namespace layerprobe::check {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kLeastBytes = std::uint64_t{2} << 30;  // for the program, its libraries and a tokenizer
constexpr std::uint64_t kFewShmBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kFilesOfAGpu = 128;  // CUDA and NCCL open devices, rings and sockets
constexpr std::uint64_t kOwnFiles = 64;

std::uint64_t total_memory() {
  std::ifstream meminfo("/proc/meminfo");
  std::string name;
  std::uint64_t kibibytes = 0;
  return meminfo >> name >> kibibytes && name == "MemTotal:" ? kibibytes * 1024 : 0;
}

/// The number that the file holds; nothing for "max", or where there is no such file.
std::optional<std::uint64_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  std::string words;
  std::uint64_t number = 0;
  if (!(file >> words)) return std::nullopt;
  const auto [end, problem] = std::from_chars(words.data(), words.data() + words.size(), number);
  if (problem != std::errc{} || end != words.data() + words.size()) return std::nullopt;
  return number;
}

/// The tightest limit of this process's control group (version 2) and those above it, with what that one uses.
void read_control_group(HostState& host) {
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (!line.starts_with("0::/")) continue;
    const fs::path root = "/sys/fs/cgroup";
    fs::path group = root / line.substr(4);
    for (; group.string().starts_with(root.string()); group = group.parent_path()) {
      const std::optional<std::uint64_t> limit = number_in(group / "memory.max");
      if (limit && (!host.group_limit_bytes || *limit < *host.group_limit_bytes)) {
        host.group_limit_bytes = limit;
        host.group_used_bytes = number_in(group / "memory.current").value_or(0);
      }
      if (group == root) break;
    }
  }
}

std::string limit_text(const std::optional<std::uint64_t>& bytes) { return bytes ? bytes_text(*bytes) : "no limit"; }

Item judge_memory(const HostState& host, const HostNeeds& needs) {
  const std::uint64_t least = kLeastBytes + needs.pinned_bytes;
  std::uint64_t available = host.available_bytes;
  std::string of = host.total_bytes == 0 ? "" : text(" of ", bytes_text(host.total_bytes));
  if (host.group_limit_bytes) {
    const std::uint64_t left = *host.group_limit_bytes - std::min(*host.group_limit_bytes, host.group_used_bytes);
    if (left < available) {
      available = left;
      of = text(" of the ", bytes_text(*host.group_limit_bytes), " that the job or container may take");
    }
  }
  Item item{.name = "host memory", .measured = text(bytes_text(available), " free", of)};
  if (available >= least) return item;
  item.status = Status::warn;
  item.expected = text(bytes_text(least), " or more");
  item.advice = needs.pinned_bytes == 0
                    ? "ask for more memory (sbatch --mem, docker run --memory), or end other programs"
                    : "ask for more memory (sbatch --mem, docker run --memory), or give run a smaller --pinned-memory";
  return item;
}

Item judge_shm(const HostState& host, const HostNeeds& needs) {
  Item item{.name = "/dev/shm"};
  if (!host.shm_bytes) {
    item.status = needs.num_gpus > 1 ? Status::warn : Status::pass;
    item.measured = "none";
  } else {
    item.measured = text(bytes_text(host.shm_free_bytes), " free of ", bytes_text(*host.shm_bytes));
    if (needs.num_gpus > 1 && host.shm_free_bytes < kFewShmBytes) item.status = Status::warn;
  }
  if (item.status == Status::pass) return item;
  item.expected = text(bytes_text(kFewShmBytes), " for NCCL over ", needs.num_gpus, " GPUs");
  item.advice = "docker run --shm-size=1g, or --ipc=host; layerprobe itself does not need it";
  return item;
}

Item judge_open_files(const HostState& host, const HostNeeds& needs) {
  const std::uint64_t least = kOwnFiles + needs.files + kFilesOfAGpu * needs.num_gpus;
  Item item{.name = "open files", .measured = text("at most ", host.open_files_limit)};
  if (host.open_files_limit >= least) return item;
  item.status = Status::fail;
  item.expected = text(least, " or more: ", needs.files, " of the checkpoint, ", kFilesOfAGpu, " of each GPU");
  item.advice = host.most_open_files >= least ? text("ulimit -n ", std::min<std::uint64_t>(host.most_open_files, 65536))
                                              : text("raise the hard limit, which is ", host.most_open_files,
                                                     ": nofile in /etc/security/limits.conf");
  return item;
}

}  // namespace

HostState read_host() {
  HostState host;
  host.total_bytes = total_memory();
  host.available_bytes = device::cpu::available_bytes();
  read_control_group(host);
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    host.locked_limit_bytes = limit.rlim_cur;
  }
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    host.open_files_limit = limit.rlim_cur;
    host.most_open_files = limit.rlim_max;
  }
  struct statvfs shm {};
  if (::statvfs("/dev/shm", &shm) == 0) {
    host.shm_bytes = static_cast<std::uint64_t>(shm.f_blocks) * shm.f_frsize;
    host.shm_free_bytes = static_cast<std::uint64_t>(shm.f_bavail) * shm.f_frsize;
  }
  return host;
}

Items judge_host(const HostState& host, const HostNeeds& needs) {
  return {judge_memory(host, needs),
          // CUDA pins memory whatever the limit: what decides is whether it does, which the copies try.
          {.name = "locked memory", .measured = limit_text(host.locked_limit_bytes)},
          judge_shm(host, needs),
          judge_open_files(host, needs)};
}

}  // namespace layerprobe::check
