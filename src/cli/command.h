#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "cli/exit_code.h"

namespace layerprobe::cli {

/// The work of the subcommand that was chosen; main runs it once all options are read.
using Command = std::function<ExitCode()>;

/// Each adds one subcommand, whose callback only sets `chosen`: no work runs inside the parser.
void add_run(CLI::App& app, Command& chosen);
void add_compare(CLI::App& app, Command& chosen);
void add_inspect(CLI::App& app, Command& chosen);

}  // namespace layerprobe::cli
