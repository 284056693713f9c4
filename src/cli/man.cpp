#include <algorithm>
#include <cctype>
#include <iostream>
#include <string_view>

#include "base/text.h"
#include "cli/command.h"
#include "cli/usage.h"

namespace layerprobe::cli {
namespace {

/// Text as roff takes it.
std::string roff(std::string_view what) {
  std::string out;
  for (const char c : what) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) out += "\\&";
      out += c;
    }
  }
  return out;
}

void print_option(const CLI::Option& option) {
  const bool has_name = !option.get_lnames().empty();
  const std::string type = option.get_expected_min() > 0 ? type_text(option) : "";
  std::cout << ".TP\n";
  if (has_name) {
    std::cout << "\\fB\\-\\-" << roff(option.get_lnames().front()) << "\\fR";
    if (!type.empty()) std::cout << " \\fI" << roff(type) << "\\fR";
  } else {
    std::cout << "\\fI" << roff(type) << "\\fR";
  }
  std::cout << "\n" << roff(option.get_description());
  if (!option.get_default_str().empty()) std::cout << " (" << roff(option.get_default_str()) << ")";
  if (!option.get_envname().empty()) std::cout << "; in the environment: " << roff(option.get_envname());
  std::cout << "\n";
}

void print_man(const CLI::App& app) {
  std::cout << ".TH LAYERPROBE 1 \"\" \"layerprobe " << roff(LAYERPROBE_VERSION) << "\"\n"
            << ".SH NAME\nlayerprobe \\- " << roff(app.get_description()) << "\n.SH SYNOPSIS\n";
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* command : commands) {
    std::cout << ".B layerprobe " << roff(command->get_name()) << "\n";
    for (const CLI::Option* option : command->get_options()) {
      if (!option->get_lnames().empty()) continue;
      const bool repeats = option->get_items_expected_max() > 1;
      std::cout << "\\fI" << roff(type_text(*option)) << "\\fR" << (repeats ? " ...\n" : "\n");
    }
    std::cout << "[\\fIOPTION\\fR ...]\n.br\n";
  }
  std::cout << ".SH OPTIONS OF EVERY COMMAND\n";
  for (const CLI::Option* option : app.get_options()) print_option(*option);
  for (const CLI::App* command : commands) {
    std::string name = command->get_name();
    std::ranges::transform(name, name.begin(), [](char c) { return static_cast<char>(std::toupper(c)); });
    std::cout << ".SH " << roff(name) << "\n" << roff(command->get_description()) << ".\n";
    for (const CLI::Option* option : command->get_options()) {
      if (option->get_lnames().empty() || option->get_lnames().front() != "help") print_option(*option);
    }
  }
  std::cout << R"(.SH EXIT STATUS
.TP
0
it ran, and the answer is yes
.TP
1
it ran, and the answer is no: runs differ, a check failed, a capture holds NaN or infinity
.TP
2
it did not run
.SH ORDER OF PRECEDENCE
An option is taken from the command line, else from the file of \-\-config, else from the environment, else it has its
default.
)";
}

}  // namespace

void add_man(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("man", "Print the manual page: layerprobe man | man -l -");
  command->callback([&app, &chosen] {
    chosen = [&app] {
      print_man(app);
      return ExitCode::success;
    };
  });
}

}  // namespace layerprobe::cli
