#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace layerprobe::test {

struct Survived {
  std::size_t answered = 0;        // cases that returned
  std::size_t refused = 0;         // cases that threw an Error of input, usage or resource
  std::vector<std::string> fatal;  // "case 17: signal 11", ... at most ten, then no more cases are tried
};

/// Calls `one(i)` for each i < count in child processes, so that a crash, an abort, a hang (over 20 seconds) or an
/// exception that is no such Error is a finding and not the end of the tests.
Survived survive(std::size_t count, const std::function<void(std::size_t)>& one);

}  // namespace layerprobe::test
