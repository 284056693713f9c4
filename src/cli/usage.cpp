#include "cli/usage.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <iostream>
#include <memory>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "cli/config_file.h"
#include "cli/table.h"

namespace layerprobe::cli {
namespace {

/// The subcommand that was chosen, or the program itself while none is.
const CLI::App& innermost(const CLI::App& app) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  return chosen.empty() ? app : *chosen.front();
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

/// "; did you mean --max-rel-l2?" for what was not understood; "" when nothing is near.
std::string suggestion(const CLI::App& app, std::string_view unknown) {
  std::vector<std::string> names;
  if (unknown.starts_with("-")) {
    names = option_names(innermost(app));
    for (std::string& name : option_names(app)) names.push_back(std::move(name));
  } else if (unknown.size() > 2) {
    for (const CLI::App* subcommand : app.get_subcommands({})) names.push_back(subcommand->get_name());
  }
  const std::vector<std::string> nearest = nearest_names(unknown.substr(0, unknown.find('=')), names, 2);
  return nearest.empty() ? "" : "; did you mean " + join(nearest, " or ") + "?";
}

template <typename Number>
std::optional<Number> number_in(const std::string& value) {
  Number number{};
  const char* const end = value.data() + value.size();
  const auto [at, problem] = std::from_chars(value.data(), end, number);
  return problem == std::errc{} && at == end ? std::optional(number) : std::nullopt;
}

}  // namespace

void hold_standard_streams() {
  for (int descriptor = 0; descriptor <= 2; ++descriptor) {
    if (::fcntl(descriptor, F_GETFD) != -1 || errno != EBADF) continue;
    if (::open("/dev/null", descriptor == 0 ? O_WRONLY : O_RDONLY) < 0) return;  // the lowest that is free
  }
}

void add_global_options(CLI::App& app) {
  app.fallthrough();  // inherited by the subcommands added later: these options may follow the subcommand
  app.set_version_flag("--version", "layerprobe " LAYERPROBE_VERSION, "Print the version and exit");
  app.set_config("--config", "",
                 "Read options from a TOML file; the command line comes before it, the environment after")
      ->type_name("FILE.toml");
  app.config_formatter(std::make_shared<ConfigFile>(app));
  app.add_flag("--print-config")
      ->description("Print the options as --config reads them, and do nothing else")
      ->configurable(false);
}

std::vector<std::string> arguments_for(const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto is_subcommand = [&](const std::string& name) {
    return !app.get_subcommands([&](const CLI::App* each) { return each->get_name() == name; }).empty();
  };
  if (!arguments.empty() && arguments.front() == "help") {  // "help merge" is "merge --help"
    arguments.erase(arguments.begin());
    arguments.push_back("--help");
  }
  if (is_subcommand("run") && !arguments.empty()) {
    const std::string& first = arguments.front();
    const bool stays = first == "--help" || first == "-h" || first == "--version" || is_subcommand(first);
    if (!stays) arguments.insert(arguments.begin(), "run");
  }
  constexpr std::string_view kPrompt = "--prompt";
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == kPrompt && i + 1 < arguments.size()) {
      ++i;
      arguments[i].insert(arguments[i].begin(), kTextMark);
    } else if (arguments[i].starts_with(std::string(kPrompt) + "=")) {
      arguments[i].insert(kPrompt.size() + 1, 1, kTextMark);
    }
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

std::string command_line_text(int argc, char** argv) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-";
  std::string out;
  for (int i = 0; i < argc; ++i) {
    const std::string_view word = argv[i];
    out += i == 0 ? "" : " ";
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string_view::npos) {
      out += word;
      continue;
    }
    out += '\'';
    for (const char letter : word) out += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
    out += '\'';
  }
  return out;
}

std::string type_text(const CLI::Option& option) {
  std::string type = option.get_type_name();
  return option.get_lnames().empty() && type == "TEXT" ? option.get_single_name() : type;
}

std::string whole_number_from_1(const std::string& value) {
  const std::optional<std::int64_t> number = number_in<std::int64_t>(value);
  return number && *number >= 1 ? "" : text("\"", value, "\" is no whole number from 1 to 2^63 - 1");
}

std::string number_from_0(const std::string& value) {
  const std::optional<double> number = number_in<double>(value);
  return number && std::isfinite(*number) && *number >= 0 ? "" : text("\"", value, "\" is no number from 0 on");
}

bool print_config_if_asked(const CLI::App& app) {
  if (app.count("--print-config") == 0) return false;
  const CLI::App& chosen = innermost(app);
  std::cout << app.get_config_formatter()->to_config(&chosen, /*default_also=*/true, /*write_description=*/true, "");
  finish_stdout();
  return true;
}

ExitCode report(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) {
    app.exit(error);
    try {
      finish_stdout();
    } catch (const Error& unwritten) {
      return report(unwritten);
    }
    return ExitCode::success;
  }
  const CLI::App& inner = innermost(app);
  const std::string program = &inner == &app ? "layerprobe" : "layerprobe " + inner.get_name();
  const std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
  const bool may_be_unknown = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError) ||
                              error.get_exit_code() == static_cast<int>(CLI::ExitCodes::RequiredError);
  if (may_be_unknown && !unknown.empty()) {  // what is missing may be what was misspelt
    std::cerr << "error: " << unknown.front() << ": no such option or argument of " << program
              << suggestion(app, unknown.front()) << "\n";
  } else {
    std::cerr << "error: " << error.what() << "\n";
  }
  std::cerr << "  help: " << program << " --help lists the options\n";
  return ExitCode::failed;
}

ExitCode report(const Error& error) {
  const Error::Parts& parts = error.parts();
  const std::string where = parts.where.empty() ? "" : shortened(parts.where) + ": ";
  std::cerr << "error: " << where << shortened(parts.what) << "\n";
  if (!parts.fix.empty()) std::cerr << "  help: " << shortened(parts.fix) << "\n";
  return exit_code_of(error.kind());
}

ExitCode report(const std::filesystem::filesystem_error& error) {
  return report(Error({.kind = ErrorKind::input,
                       .where = error.path1().string(),
                       .what = error.code().message(),
                       .fix = "check the path, and whether all of its folders may be read"}));
}

ExitCode report(const std::system_error& error) {
  return report(Error({.kind = ErrorKind::resource,
                       .where = "the system",
                       .what = error.code().message(),
                       .fix = "let this user, or the container, have more threads (ulimit -u, --pids-limit)"}));
}

void finish_stdout() {
  std::cout.flush();
  if (std::cout) return;
  throw Error({.kind = ErrorKind::resource,
               .where = "standard output",
               .what = "not all of the output could be written",
               .fix = "make space where the output is sent to"});
}

}  // namespace layerprobe::cli
