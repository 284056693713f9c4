#include "check/disk.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "base/bytes.h"
#include "base/file.h"
#include "base/text.h"
#include "device/cpu/memory.h"

namespace layerprobe::check {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kPieceBytes = std::size_t{8} << 20;
constexpr std::uint64_t kFewBytes = std::uint64_t{64} << 20;
constexpr std::size_t kReaders = 4;
constexpr double kMostSeconds = 8;
constexpr double kSlowRate = 2e8;  // a plain disk: loading 100 GB takes eight minutes

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string rate_text(double rate) { return text(bytes_text(static_cast<std::uint64_t>(rate)), "/s"); }

/// A file that has no name any more, so that nothing is left behind however this ends.
struct NamelessFile {
  explicit NamelessFile(const fs::path& folder) : file(create(folder)), direct(file.open_direct()) {
    remove_file(file.path());
  }
  static File create(const fs::path& folder) {
    for (int i = 0;; ++i) {
      const fs::path path = folder / text(".layerprobe-check-", ::getpid(), "-", i);
      std::error_code ignored;
      if (!fs::exists(path, ignored)) return File::create(path);
    }
  }

  File file;
  std::optional<File> direct;
};

std::string seconds_text(double seconds) {
  return seconds < 100 ? text(static_cast<int>(seconds + 0.5), " s")
                       : text(static_cast<int>(seconds / 60 + 0.5), " min");
}

}  // namespace

WriteTrial try_writing(const fs::path& folder, std::uint64_t bytes) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    throw Error({.kind = ErrorKind::resource,
                 .where = folder.string(),
                 .what = "is no folder",
                 .fix = "make it, or give another --output"});
  }
  WriteTrial trial{.folder = folder, .free_bytes = free_bytes(folder), .is_in_memory = is_in_memory(folder)};
  bytes = std::min(bytes, trial.free_bytes / 4);  // others write there too
  const NamelessFile written(folder);
  const device::Buffer memory = device::cpu::allocate_bytes(kPieceBytes, File::kDirectAlignment);
  auto* const words = static_cast<std::uint32_t*>(memory.data());
  for (std::size_t i = 0; i < kPieceBytes / 4; ++i) words[i] = static_cast<std::uint32_t>(i) * 2654435761u;
  const std::span<const std::byte> piece(static_cast<const std::byte*>(memory.data()), kPieceBytes);

  trial.is_direct = written.direct.has_value();
  const Clock::time_point start = Clock::now();
  std::uint64_t done = 0;
  while (done < std::max<std::uint64_t>(bytes, kPieceBytes) && (done == 0 || seconds_since(start) < kMostSeconds)) {
    std::optional<std::size_t> put;
    if (trial.is_direct) put = written.direct->write_some_at(done, piece);
    trial.is_direct = put.has_value() && *put == piece.size();
    if (!trial.is_direct) written.file.write_at(done, piece);
    done += piece.size();
  }
  written.file.sync_data();
  if (done > kPieceBytes) trial.rate = static_cast<double>(done) / seconds_since(start);

  std::vector<std::byte> back(kPieceBytes);
  written.file.read_at(0, back);
  if (!std::ranges::equal(back, piece)) {
    throw Error({.kind = ErrorKind::resource,
                 .where = folder.string(),
                 .what = "what was written there reads back damaged",
                 .fix = "do not write there; see dmesg for errors of the disk"});
  }
  return trial;
}

Items judge_writing(const WriteTrial& trial, std::optional<std::uint64_t> needed_bytes) {
  const std::string where = trial.is_in_memory ? text(trial.folder.string(), ", in memory") : trial.folder.string();
  Item space{.name = "output space", .measured = text(bytes_text(trial.free_bytes), " free in ", where)};
  if (needed_bytes) space.expected = text(bytes_text(*needed_bytes), " for the output");
  if (needed_bytes && *needed_bytes > trial.free_bytes) {
    space.status = Status::fail;
    space.advice = "make space there, give another --output, or keep less (--layers, --tokens)";
  }
  if (trial.rate == 0) return {space};
  Item rate{.name = "output rate",
            .measured = text(rate_text(trial.rate), trial.is_direct      ? ""
                                                    : trial.is_in_memory ? ", in memory"
                                                                         : ", O_DIRECT is refused there")};
  if (needed_bytes && *needed_bytes > 0) {
    rate.measured += text(", ", seconds_text(static_cast<double>(*needed_bytes) / trial.rate), " for the output");
  }
  if (trial.rate < kSlowRate) {
    rate.status = Status::warn;
    rate.expected = text(rate_text(kSlowRate), " or more");
    rate.advice =
        "captures will wait for the disk: give an --output on a faster one, or keep less (--layers, --tokens)";
  }
  return {space, rate};
}

ReadTrial try_reading(const std::vector<fs::path>& files, std::uint64_t bytes) {
  const auto size_of = [](const fs::path& path) { return File::open_for_reading(path).size(); };
  const File file = File::open_for_reading(*std::ranges::max_element(files, {}, size_of));
  const std::optional<File> direct = file.is_in_memory() ? std::nullopt : file.reopened_direct();
  const std::uint64_t end = std::min(bytes, file.size());
  std::atomic<std::uint64_t> next = 0, done = 0;
  std::mutex mutex;
  std::exception_ptr failure;
  const Clock::time_point start = Clock::now();
  const auto read = [&] {
    try {
      const device::Buffer memory = device::cpu::allocate_bytes(kPieceBytes, File::kDirectAlignment);
      const std::span<std::byte> room(static_cast<std::byte*>(memory.data()), kPieceBytes);
      while (seconds_since(start) < kMostSeconds) {
        const std::uint64_t begin = next.fetch_add(kPieceBytes);
        if (begin >= end) return;
        const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, end - begin));
        if (!direct || direct->read_direct(begin, room) < count) file.read_at(begin, room.first(count));
        done += count;
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> readers;
    for (std::size_t i = 0; i < kReaders; ++i) readers.emplace_back(read);
  }
  if (failure) std::rethrow_exception(failure);
  return {.bytes = done,
          .is_in_memory = file.is_in_memory(),
          .is_direct = direct.has_value(),
          .rate = static_cast<double>(done) / std::max(seconds_since(start), 1e-9)};
}

Item judge_reading(const ReadTrial& trial, std::uint64_t checkpoint_bytes) {
  Item item{.name = "checkpoint rate",
            .measured = text(rate_text(trial.rate),
                             trial.is_in_memory ? ", in memory"
                             : trial.is_direct  ? ""
                                                : ", through the page cache",
                             ", ", seconds_text(static_cast<double>(checkpoint_bytes) / trial.rate), " for all of ",
                             bytes_text(checkpoint_bytes))};
  if (trial.bytes < kFewBytes) {
    item.status = Status::skip;
    item.measured = text("too little to tell: ", bytes_text(trial.bytes));
    return item;
  }
  if (trial.rate >= kSlowRate) return item;
  item.status = Status::warn;
  item.expected = text(rate_text(kSlowRate), " or more");
  item.advice = "copy the model to a local disk or to /dev/shm before the run";
  return item;
}

}  // namespace layerprobe::check
