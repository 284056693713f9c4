#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "runtime/session.h"

namespace layerprobe::cli {

/// Shows a run's steps on stderr: one line that is written over once a second on a terminal, a line a minute elsewhere.
class Progress {
 public:
  explicit Progress(bool quiet);
  /// Ends the line that is being written over.
  ~Progress();

  runtime::Watch watch();

 private:
  void show(const runtime::Watch::Step& step);
  void end_line();

  bool quiet_;
  bool on_terminal_;
  bool line_is_open_ = false;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace layerprobe::cli
