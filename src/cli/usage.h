#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "cli/exit_code.h"

namespace layerprobe::cli {

/// Puts something under the descriptors 0, 1 and 2 that the caller has closed, so that no file which is opened later
/// gets one of them and is written to as stderr. Reading and writing there fails, as before.
void hold_standard_streams();

/// --version, --config, --print-config. They may stand before or after the subcommand.
void add_global_options(CLI::App& app);

/// The arguments in the order that CLI::App::parse takes, the last one first. "run" is put in front when the first is
/// no subcommand, --help or --version; "help COMMAND" is "COMMAND --help".
std::vector<std::string> arguments_for(const CLI::App& app, int argc, char** argv);

/// The command as a shell would take it again: words with anything unusual in them in single quotes.
std::string command_line_text(int argc, char** argv);

/// Put before every value of --prompt, which is text: the parser would take "[a, b]" apart and "-x" for an option.
inline constexpr char kTextMark = '\x01';

/// What an option takes, as the manual has it: "PATH", "auto|peer|host"; an argument without a type by its name.
std::string type_text(const CLI::Option& option);

/// For CLI::Option::check: what is wrong with `value`; "" when it is an integer from 1 to 2^63 - 1, or a finite number
/// from 0 on. CLI11's own let NaN through and write the bounds of a double in full.
std::string whole_number_from_1(const std::string& value);
std::string number_from_0(const std::string& value);

/// With --print-config: prints the chosen subcommand's options, as --config reads them, and returns true.
bool print_config_if_asked(const CLI::App& app);

/// Prints help or version to stdout, or what is wrong with the arguments to stderr, with the nearest names for an
/// unknown one.
ExitCode report(const CLI::App& app, const CLI::ParseError& error);

/// Prints a failure to stderr, through printable(): parts of it may come out of a file.
ExitCode report(const Error& error);

/// The same of what the file system refused to tell of a path: a name that is too long, a folder that may not be read.
ExitCode report(const std::filesystem::filesystem_error& error);

/// The same of what the system has no more of: threads.
ExitCode report(const std::system_error& error);

/// Throws Error(resource) when what was printed did not reach stdout (a full disk behind a redirection).
void finish_stdout();

}  // namespace layerprobe::cli
