#include "tests/support/survive.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <new>
#include <stdexcept>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::test {
namespace {

constexpr unsigned kSecondsACase = 20;
constexpr std::size_t kMaxFatal = 10;
constexpr int kOtherException = 3;

/// What the child says of itself, in memory that it shares with its parent.
struct Progress {
  std::atomic<std::size_t> at, answered, refused;
};

[[noreturn]] void be_child(Progress& progress, std::size_t count, const std::function<void(std::size_t)>& one) {
  for (const int each : {SIGSEGV, SIGABRT, SIGFPE, SIGILL, SIGTERM, SIGINT})
    std::signal(each, SIG_DFL);  // not doctest's
  for (; progress.at < count; ++progress.at) {
    ::alarm(kSecondsACase);
    try {
      one(progress.at);
      ++progress.answered;
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::bug || error.kind() == ErrorKind::device) ::_exit(kOtherException);
      ++progress.refused;
    } catch (...) {
      ::_exit(kOtherException);
    }
  }
  ::_exit(0);
}

}  // namespace

Survived survive(std::size_t count, const std::function<void(std::size_t)>& one) {
  void* const shared = ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) throw std::runtime_error("no shared memory");
  Progress& progress = *new (shared) Progress{};
  Survived out;
  while (progress.at < count && out.fatal.size() < kMaxFatal) {
    const pid_t child = ::fork();
    if (child < 0) throw std::runtime_error("no new process");
    if (child == 0) be_child(progress, count, one);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    const std::string how = WIFSIGNALED(status)                      ? text("signal ", WTERMSIG(status))
                            : WEXITSTATUS(status) == kOtherException ? std::string("an exception that tells nobody")
                                                                     : text("exit ", WEXITSTATUS(status));
    out.fatal.push_back(text("case ", progress.at.load(), ": ", how));
    ++progress.at;
  }
  out.answered = progress.answered;
  out.refused = progress.refused;
  ::munmap(shared, sizeof(Progress));
  return out;
}

}  // namespace layerprobe::test
