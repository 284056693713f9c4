#include "cli/stop_signals.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstddef>

namespace layerprobe::cli {
namespace {

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};

volatile sig_atomic_t has_come_before = 0;  // a handler can reach nothing but what is global
std::array<struct sigaction, kSignals.size()> handlers_before;

void note(int signal) {
  if (has_come_before != 0) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);  // ends the program when this handler returns
    return;
  }
  has_come_before = 1;
  constexpr char kText[] = "\nstopping: what is complete goes to the disk (once more to stop at once)\n";
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, kText, sizeof kText - 1);
}

}  // namespace

StopSignals::StopSignals() {
  has_come_before = 0;
  struct sigaction noting {};
  noting.sa_handler = note;
  noting.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], nullptr, &handlers_before[i]);
    if (handlers_before[i].sa_handler != SIG_IGN) ::sigaction(kSignals[i], &noting, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &handlers_before[i], nullptr);
}

bool StopSignals::has_come() const { return has_come_before != 0; }

}  // namespace layerprobe::cli
