#include "cli/progress.h"

#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "base/bytes.h"
#include "base/text.h"
#include "cli/table.h"

namespace layerprobe::cli {
namespace {

/// "12 s", "3 min 20 s", "2 h 5 min"
std::string time_text(double seconds) {
  const auto whole = static_cast<long long>(seconds + 0.5);
  if (whole < 60) return text(whole, " s");
  if (whole < 3600) return text(whole / 60, " min ", whole % 60, " s");
  return text(whole / 3600, " h ", whole % 3600 / 60, " min");
}

std::string line_of(const runtime::Watch::Step& step) {
  const double done = static_cast<double>(step.done);
  const double share = step.total == 0 ? 1 : done / static_cast<double>(step.total);
  const double rate = done / std::max(step.seconds, 1e-9);
  const std::string left = share > 0 ? time_text(step.seconds * (1 - share) / share) : "?";
  const std::string percent = text(static_cast<int>(share * 100), "%");
  if (step.kind != runtime::Watch::Step::Kind::running) {
    const bool loads = step.kind == runtime::Watch::Step::Kind::loading;
    return text(loads ? "loading weights: " : "reading the checkpoint: ", percent, " of ", bytes_text(step.total), ", ",
                bytes_text(static_cast<std::uint64_t>(rate)), "/s, ", left, " left");
  }
  return text("running layers: ", percent, ", ", number_text(rate), " tokens x layers/s, ", left, " left");
}

/// "cuda:0 12.3 GB, embed_tokens, 0-15, waits for weights"
std::string line_of(const runtime::DeviceState& device) {
  return text(device.name, " ", bytes_text(device.memory_bytes), ", ", shortened(device.modules),
              device.waits_for.empty() ? "" : text(", waits for ", device.waits_for));
}

}  // namespace

Progress::Progress(bool quiet) : quiet_(quiet), on_terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() { end_line(); }

runtime::Watch Progress::watch() {
  return {.step = [this](const runtime::Watch::Step& step) { show(step); },
          .warn =
              [this](const std::string& what) {
                if (quiet_) return;
                end_line();
                std::cerr << "warning: " << shortened(what) << "\n";
              }};
}

void Progress::show(const runtime::Watch::Step& step) {
  if (quiet_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < (on_terminal_ ? std::chrono::seconds(1) : std::chrono::seconds(60))) return;
  last_ = now;
  std::vector<std::string> lines = {line_of(step)};
  const auto devices = step.devices ? step.devices() : std::vector<runtime::DeviceState>();
  for (std::size_t i = 0; devices.size() > 1 && i < devices.size(); ++i) lines.push_back("  " + line_of(devices[i]));
  constexpr std::size_t kColumns = 79;  // a line that a terminal breaks in two could not be written over
  for (std::string& line : lines) line = on_terminal_ ? line.substr(0, kColumns) : line;
  end_line();
  std::cerr << join(lines, "\n") << (on_terminal_ ? "" : "\n") << std::flush;
  open_lines_ = on_terminal_ ? lines.size() : 0;
}

/// Clears them, with the cursor where the first began.
void Progress::end_line() {
  if (open_lines_ == 0) return;
  std::cerr << "\r\033[K";
  for (std::size_t i = 1; i < open_lines_; ++i) std::cerr << "\033[A\033[K";
  std::cerr << std::flush;
  open_lines_ = 0;
}

}  // namespace layerprobe::cli
