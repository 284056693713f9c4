#pragma once

#include <chrono>
#include <string>

namespace layerprobe::cli {

/// One line on stderr that says how far a long step is, once a second, and only where stderr is a terminal.
class ShareDone {
 public:
  explicit ShareDone(std::string doing);
  ~ShareDone() { finish(); }
  ShareDone(const ShareDone&) = delete;
  ShareDone& operator=(const ShareDone&) = delete;

  /// `share` is 0 to 1. Cheap: most calls only look at the clock.
  void show(double share);
  /// Takes the line away.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string doing_;
  bool is_terminal_;
  bool is_shown_ = false;
  Clock::time_point started_ = Clock::now();
  Clock::time_point last_ = started_;
};

}  // namespace layerprobe::cli
