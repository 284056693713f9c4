#pragma once

#include "base/error.h"

namespace layerprobe::cli {

/// The program's exit status, as diff(1) has it.
enum class ExitCode : int {
  success = 0,  // it ran and the answer is yes
  differs = 1,  // it ran and the answer is no: runs differ, a check failed, a capture holds NaN or infinity
  failed = 2,   // it did not run
};

/// Whatever kind of failure it is: it did not run.
constexpr ExitCode exit_code_of(ErrorKind) { return ExitCode::failed; }

}  // namespace layerprobe::cli
