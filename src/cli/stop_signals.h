#pragma once

namespace layerprobe::cli {

/// While it lives, the first SIGINT, SIGTERM or SIGHUP asks for a stop and the second ends the program at once. One
/// that was ignored before (nohup) stays ignored. One at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  bool has_come() const;
};

}  // namespace layerprobe::cli
