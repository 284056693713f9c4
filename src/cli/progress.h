#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "runtime/session.h"

namespace layerprobe::cli {

/// Shows a run's steps on stderr: one line, and one a device where there are several, written over once a second on a
/// terminal, once a minute elsewhere.
class Progress {
 public:
  explicit Progress(bool quiet);
  /// Ends what is being written over.
  ~Progress();

  runtime::Watch watch();

 private:
  void show(const runtime::Watch::Step& step);
  void end_line();

  bool quiet_;
  bool on_terminal_;
  std::size_t open_lines_ = 0;  // that are being written over
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace layerprobe::cli
