#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace layerprobe::runtime {

/// Calls `beat` every so often from a thread of its own while it lives, and once more when it ends.
class Beating {
 public:
  Beating(std::function<void()> beat, double seconds) : beat_(std::move(beat)), seconds_(seconds) {
    if (beat_) thread_ = std::thread([this] { run(); });
  }
  ~Beating() {
    if (!beat_) return;
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  Beating(const Beating&) = delete;
  Beating& operator=(const Beating&) = delete;

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (bool is_last = false; !is_last;) {
      is_last = changed_.wait_for(lock, std::chrono::duration<double>(seconds_), [&] { return ends_; });
      try {
        beat_();
      } catch (const std::exception&) {  // what it throws is dropped
      }
    }
  }

  const std::function<void()> beat_;
  const double seconds_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace layerprobe::runtime
