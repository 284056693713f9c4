#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <utility>

namespace layerprobe::runtime {

/// What the threads of a run share to wait for each other, and to end together when one of them fails. What they wait
/// for (links, the queue of waves) is read and changed under its lock alone.
class Hub {
 public:
  /// Thrown where a thread waits, or would, once another has failed. That one's error is the run's.
  struct Stopped {};

  /// Returns once `holds()`, which is called under the lock.
  template <typename Holds>
  void wait(Holds&& holds) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_ || holds(); });
    if (stopped_) throw Stopped();
  }

  /// Calls `change()` under the lock and wakes those who wait.
  template <typename Change>
  void change(Change&& change) {
    {
      const std::lock_guard lock(mutex_);
      change();
    }
    changed_.notify_all();
  }

  /// The first failure counts.
  void stop(std::exception_ptr failure) {
    change([&] {
      if (!stopped_) failure_ = std::move(failure);
      stopped_ = true;
    });
  }
  void rethrow_failure() {
    const std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::exception_ptr failure_;
};

}  // namespace layerprobe::runtime
