#include "store/space_ahead.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "base/error.h"

namespace layerprobe::store {
namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kMostThreads = 4;  // 18 GB/s where pages are huge: more than one GPU's captures
constexpr std::uint64_t kPieceBytes = std::uint64_t{8} << 20;  // one to a few milliseconds: a stop waits for one

}  // namespace

SpaceAhead::SpaceAhead(Allocate allocate, const std::vector<Dataset>& datasets) : allocate_(std::move(allocate)) {
  for (const Dataset& dataset : datasets) progress_.push_back({.dataset = dataset});
  const unsigned threads = std::clamp(std::thread::hardware_concurrency() / 4, 1u, kMostThreads);
  try {
    for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { set_aside(); });
  } catch (const std::system_error&) {  // the system has no more: one does it all
    if (threads_.empty()) throw;
  }
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
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

double SpaceAhead::waited_seconds() const {
  const std::lock_guard lock(mutex_);
  return waited_seconds_;
}

void SpaceAhead::set_aside() {
  std::unique_lock lock(mutex_);
  while (Progress* const progress = stopping_ || problem_ ? nullptr : next()) {
    const std::uint64_t bytes = std::min(kPieceBytes, progress->dataset.bytes - progress->done);
    const std::uint64_t offset = progress->dataset.offset + progress->done;
    progress->is_growing = true;
    lock.unlock();
    std::exception_ptr problem;
    try {
      allocate_(offset, bytes);
    } catch (...) {
      problem = std::current_exception();
    }
    lock.lock();
    progress->is_growing = false;
    if (problem) {
      if (!problem_) problem_ = problem;
    } else {
      progress->done += bytes;
    }
    changed_.notify_all();
  }
}

/// Nothing when every dataset has its space, or another thread is about the last of it.
SpaceAhead::Progress* SpaceAhead::next() {
  Progress* behind = nullptr;
  for (Progress& progress : progress_) {
    if (progress.is_growing || progress.done == progress.dataset.bytes) continue;
    if (progress.wanted > progress.done) return &progress;
    const auto rows = [](const Progress& of) { return of.done / of.dataset.row_bytes; };
    if (behind == nullptr || rows(progress) < rows(*behind)) behind = &progress;
  }
  return behind;
}

}  // namespace layerprobe::store
