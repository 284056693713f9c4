#include <algorithm>
#include <iostream>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/usage.h"

namespace layerprobe::cli {
namespace {

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

/// The options that one may type after a command, with those that every command takes.
std::vector<const CLI::Option*> options_of(const CLI::App& app, const CLI::App& command) {
  std::vector<const CLI::Option*> options;
  for (const CLI::App* each : {&command, &app}) {
    for (const CLI::Option* option : each->get_options()) {
      const bool is_twice = each == &app && command.get_option_no_throw("--" + option->get_lnames().front()) != nullptr;
      if (!option->get_lnames().empty() && !is_twice) options.push_back(option);
    }
  }
  return options;
}

bool takes_value(const CLI::Option& option) { return option.get_expected_min() > 0; }

/// The words that an option takes, where its type lists them: "auto|peer|host".
std::vector<std::string> choices_of(const CLI::Option& option) {
  const std::string type = type_text(option);
  const bool is_list = type.find('|') != std::string::npos &&
                       type.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-|") == std::string::npos;
  return is_list ? split(type, '|') : std::vector<std::string>();
}

std::vector<std::string> names_of(const std::vector<const CLI::App*>& commands) {
  std::vector<std::string> names;
  for (const CLI::App* each : commands) names.push_back(each->get_name());
  return names;
}

void print_bash(const CLI::App& app) {
  const std::vector<const CLI::App*> commands = commands_of(app);
  const std::vector<std::string> names = names_of(commands);
  std::cout
      << R"(# layerprobe completion bash >/etc/bash_completion.d/layerprobe, or: source <(layerprobe completion bash)
_layerprobe() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=run options choices
  case ${COMP_WORDS[1]} in
    )" << join(names, " | ")
      << R"() [ "$COMP_CWORD" = 1 ] || command=${COMP_WORDS[1]} ;;
  esac
  case $command in
)";
  for (const CLI::App* command : commands) {
    std::vector<std::string> options, with_choices;
    for (const CLI::Option* option : options_of(app, *command)) {
      options.push_back("--" + option->get_lnames().front());
      const std::vector<std::string> choices = choices_of(*option);
      if (!choices.empty()) {
        with_choices.push_back(text("        ", options.back(), ") choices='", join(choices, " "), "' ;;\n"));
      }
    }
    for (const CLI::Option* option : command->get_options()) {  // arguments without a name
      if (!option->get_lnames().empty() || choices_of(*option).empty()) continue;
      with_choices.push_back(
          text("        ", command->get_name(), ") choices='", join(choices_of(*option), " "), "' ;;\n"));
    }
    std::cout << "    " << command->get_name() << ")\n      options='" << join(options, " ") << "'\n";
    if (!with_choices.empty()) std::cout << "      case $previous in\n" << join(with_choices, "") << "      esac\n";
    std::cout << "      ;;\n";
  }
  std::cout << R"(  esac
  COMPREPLY=()
  if [ -n "$choices" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
  elif [[ $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
  elif [ "$COMP_CWORD" = 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W ')"
            << join(names, " ") << R"(' -- "$current")
  fi
}
complete -o default -F _layerprobe layerprobe
)";
}

/// In an _arguments specification, within single quotes.
std::string zsh_text(std::string_view what) {
  std::string out;
  for (const char c : what) {
    if (c == '\'') {
      out += "'\\''";
      continue;
    }
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

void print_zsh(const CLI::App& app) {
  const std::vector<const CLI::App*> commands = commands_of(app);
  std::cout << "#compdef layerprobe\n"
               "# layerprobe completion zsh >_layerprobe, in a folder of $fpath\n"
               "_layerprobe() {\n  local command=run\n  local -a commands=(\n";
  for (const CLI::App* each : commands) {
    std::cout << "    '" << each->get_name() << ":" << zsh_text(each->get_description()) << "'\n";
  }
  std::cout
      << "  )\n  if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then\n    _describe command commands\n    return\n  fi\n"
      << "  case $words[2] in\n    " << join(names_of(commands), " | ")
      << ")\n      command=$words[2]\n      shift words\n      ((CURRENT--))\n      ;;\n  esac\n"
      << "  case $command in\n";
  for (const CLI::App* command : commands) {
    std::cout << "    " << command->get_name() << ")\n      _arguments";
    for (const CLI::Option* option : options_of(app, *command)) {
      const bool repeats = option->get_items_expected_max() > 1;
      std::cout << " \\\n        '" << (repeats ? "*" : "") << "--" << option->get_lnames().front() << "["
                << zsh_text(option->get_description()) << "]";
      if (takes_value(*option)) {
        const std::vector<std::string> choices = choices_of(*option);
        std::cout << ":" << zsh_text(type_text(*option)) << ":"
                  << (choices.empty() ? "_files" : text("(", join(choices, " "), ")"));
      }
      std::cout << "'";
    }
    for (const CLI::Option* option : command->get_options()) {
      if (!option->get_lnames().empty()) continue;
      const std::vector<std::string> choices = choices_of(*option);
      std::cout << " \\\n        '" << (option->get_items_expected_max() > 1 ? "*" : "") << ":"
                << zsh_text(option->get_single_name()) << ":"
                << (choices.empty() ? "_files" : text("(", join(choices, " "), ")")) << "'";
    }
    std::cout << "\n      ;;\n";
  }
  std::cout << "  esac\n}\n_layerprobe \"$@\"\n";
}

}  // namespace

void add_completion(CLI::App& app, Command& chosen) {
  const auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print what a shell completes commands and options with");
  command->add_option("shell", *shell, "The shell that it is for")->required()->type_name("bash|zsh");
  command->callback([&app, &chosen, shell] {
    chosen = [&app, shell] {
      if (*shell != "bash" && *shell != "zsh") {
        throw Error({.kind = ErrorKind::usage,
                     .where = "completion",
                     .what = text("there is none for \"", *shell, "\""),
                     .fix = "name bash or zsh"});
      }
      *shell == "bash" ? print_bash(app) : print_zsh(app);
      return ExitCode::success;
    };
  });
}

}  // namespace layerprobe::cli
