#include "store/space_ahead.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace layerprobe::store {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kPieceBytes = std::uint64_t{8} << 20;  // one to a few milliseconds: a stop waits for one

}  // namespace

SpaceAhead::SpaceAhead(const File& file, const std::vector<Dataset>& datasets) : file_(file) {
  for (const Dataset& dataset : datasets) progress_.push_back({.dataset = dataset});
  thread_ = std::thread([this] { set_aside(); });
}

SpaceAhead::~SpaceAhead() { stop(); }

void SpaceAhead::wait_for(std::size_t dataset, std::uint64_t bytes) {
  std::unique_lock lock(mutex_);
  Progress& progress = progress_[dataset];
  expect(bytes <= progress.dataset.bytes && !stopping_, "space is waited for that will be set aside");
  if (problem_) std::rethrow_exception(problem_);
  if (progress.done >= bytes) return;
  progress.wanted = std::max(progress.wanted, bytes);
  const Clock::time_point start = Clock::now();
  changed_.wait(lock, [&] { return progress.done >= bytes || problem_; });
  waited_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
  if (problem_) std::rethrow_exception(problem_);
}

void SpaceAhead::check() {
  const std::lock_guard lock(mutex_);
  if (problem_) std::rethrow_exception(problem_);
}

void SpaceAhead::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

double SpaceAhead::waited_seconds() const {
  const std::lock_guard lock(mutex_);
  return waited_seconds_;
}

void SpaceAhead::set_aside() {
  std::unique_lock lock(mutex_);
  try {
    while (Progress* const progress = stopping_ ? nullptr : next()) {
      const std::uint64_t bytes = std::min(kPieceBytes, progress->dataset.bytes - progress->done);
      const std::uint64_t offset = progress->dataset.offset + progress->done;
      lock.unlock();
      file_.allocate(offset, bytes);
      lock.lock();
      progress->done += bytes;
      changed_.notify_all();
    }
  } catch (...) {
    lock.lock();  // only allocate() throws
    problem_ = std::current_exception();
    changed_.notify_all();
  }
}

/// Nothing when every dataset has its space.
SpaceAhead::Progress* SpaceAhead::next() {
  Progress* behind = nullptr;
  for (Progress& progress : progress_) {
    if (progress.wanted > progress.done) return &progress;
    if (progress.done == progress.dataset.bytes) continue;
    const auto rows = [](const Progress& of) { return of.done / of.dataset.row_bytes; };
    if (behind == nullptr || rows(progress) < rows(*behind)) behind = &progress;
  }
  return behind;
}

}  // namespace layerprobe::store
