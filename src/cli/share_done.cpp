#include "cli/share_done.h"

#include <unistd.h>

#include <iostream>
#include <utility>

#include "base/text.h"

namespace layerprobe::cli {

ShareDone::ShareDone(std::string doing) : doing_(std::move(doing)), is_terminal_(::isatty(STDERR_FILENO) == 1) {}

void ShareDone::show(double share) {
  if (!is_terminal_) return;
  const Clock::time_point now = Clock::now();
  if (now - last_ < std::chrono::seconds(1)) return;
  last_ = now;
  is_shown_ = true;
  const double elapsed = std::chrono::duration<double>(now - started_).count();
  std::cerr << "\r" << doing_ << " " << static_cast<int>(share * 100) << "%";
  if (share > 0) std::cerr << ", " << static_cast<long>(elapsed / share - elapsed + 0.5) << " s left";
  std::cerr << "\x1b[K" << std::flush;
}

void ShareDone::finish() {
  if (is_shown_) std::cerr << "\r\x1b[K" << std::flush;
  is_shown_ = false;
}

}  // namespace layerprobe::cli
