#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "cli/exit_code.h"

namespace layerprobe::cli {

/// The work of the subcommand that was chosen; main runs it once all options are read.
using Command = std::function<ExitCode()>;

/// Each adds one subcommand, whose callback only sets `chosen`: no work runs inside the parser.
/// `command_line` is kept in the files it writes.
void add_run(CLI::App& app, Command& chosen, const std::string& command_line);
void add_plan(CLI::App& app, Command& chosen);
void add_merge(CLI::App& app, Command& chosen, const std::string& command_line);
void add_compare(CLI::App& app, Command& chosen);
void add_import(CLI::App& app, Command& chosen, const std::string& command_line);
void add_check(CLI::App& app, Command& chosen);
void add_inspect(CLI::App& app, Command& chosen);
void add_completion(CLI::App& app, Command& chosen);
void add_man(CLI::App& app, Command& chosen);

}  // namespace layerprobe::cli
