#pragma once

#include <string>
#include <vector>

namespace layerprobe::test {

struct Finished {
  int exit_code = -1;  // -1: ended by a signal
  std::string out;     // what it wrote to stdout
  std::string err;
};

/// Runs the program that was built beside the tests, and waits. No shell is between: arguments arrive as they are.
Finished run_layerprobe(const std::vector<std::string>& arguments);

}  // namespace layerprobe::test
