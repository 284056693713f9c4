#include "check/host.h"

#include <sys/resource.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/bytes.h"
#include "base/text.h"
#include "device/cpu/memory.h"

namespace layerprobe::check {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kLeastBytes = std::uint64_t{2} << 30;  // for the program, its libraries and a tokenizer
constexpr std::uint64_t kFewShmBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kFilesOfAGpu = 128;  // CUDA and NCCL open devices, rings and sockets
constexpr std::uint64_t kOwnFiles = 32;
constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 60;  // version 1 writes 2^63 less a page

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

/// The number behind `name` in a file of names and numbers; 0 where there is none.
std::uint64_t number_of(const fs::path& path, std::string_view name) {
  std::ifstream file(path);
  std::string found;
  for (std::uint64_t number = 0; file >> found >> number;) {
    if (found == name) return number;
  }
  return 0;
}

/// What the two versions of control groups call the same things.
struct GroupFiles {
  const char *limit, *used, *cached;
};
constexpr GroupFiles kVersion2{"memory.max", "memory.current", ""};
constexpr GroupFiles kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_"};

/// The limits of `group`, a path below `root`, and of those above it.
void read_groups(HostState& host, const fs::path& root, const std::string& group, const GroupFiles& files) {
  fs::path folder = root;
  std::vector<fs::path> folders = {folder};
  for (const std::string& part : split(group, '/')) {
    if (part.empty() || part == "..") continue;
    folders.push_back(folder /= part);
  }
  for (const fs::path& each : folders) {
    const std::optional<std::uint64_t> limit = number_in(each / files.limit);
    if (!limit || *limit >= kNoLimit || (host.group_limit_bytes && *limit >= *host.group_limit_bytes)) continue;
    const std::uint64_t used = number_in(each / files.used).value_or(0);
    std::uint64_t cached = 0;
    for (const char* list : {"active_file", "inactive_file"}) {
      cached += number_of(each / "memory.stat", text(files.cached, list));
    }
    host.group_limit_bytes = limit;
    host.group_used_bytes = used - std::min(used, cached);
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
  const std::uint64_t without_gpus = kOwnFiles + needs.files;
  const std::uint64_t least = without_gpus + kFilesOfAGpu * needs.num_gpus;
  Item item{.name = "open files", .measured = text("at most ", host.open_files_limit)};
  if (host.open_files_limit >= least) return item;
  item.status = host.open_files_limit < without_gpus ? Status::fail : Status::warn;  // CUDA may do with fewer
  item.expected = text(least, " or more: ", kOwnFiles, " of the program",
                       needs.files == 0 ? "" : text(", ", needs.files, " of the checkpoint"),
                       needs.num_gpus == 0 ? "" : text(", ", kFilesOfAGpu, " for each GPU"));
  item.advice = host.most_open_files >= least ? text("ulimit -n ", std::min<std::uint64_t>(host.most_open_files, 65536))
                                              : text("raise the hard limit, which is ", host.most_open_files,
                                                     ": nofile in /etc/security/limits.conf");
  return item;
}

}  // namespace

void read_control_groups(HostState& host, const fs::path& root) {
  std::ifstream groups(root / "proc/self/cgroup");  // number:controllers:path; version 2 has 0 and no controllers
  for (std::string line; std::getline(groups, line);) {
    const std::vector<std::string> parts = split(line, ':');
    if (parts.size() < 3) continue;
    const std::string path = line.substr(parts[0].size() + parts[1].size() + 2);
    if (parts[0] == "0" && parts[1].empty()) {
      read_groups(host, root / "sys/fs/cgroup", path, kVersion2);
    } else if (std::ranges::count(split(parts[1], ','), "memory") > 0) {
      read_groups(host, root / "sys/fs/cgroup/memory", path, kVersion1);
    }
  }
}

HostState read_host() {
  HostState host;
  host.total_bytes = total_memory();
  host.available_bytes = device::cpu::available_bytes();
  read_control_groups(host, "/");
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
