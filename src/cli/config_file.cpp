#include "cli/config_file.h"

// A debug build of toml++ asserts what it refuses a line later ("[=]"), and an optimised one by clang takes it for
// granted.
#pragma push_macro("NDEBUG")
#undef NDEBUG
#define TOML_ASSERT(expr) static_assert(true)
#include <toml++/toml.h>
#pragma pop_macro("NDEBUG")

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "cli/usage.h"

namespace layerprobe::cli {
namespace {

constexpr std::size_t kMaxBytes = 16'000'000;
constexpr std::size_t kMaxDots = 500;  // in a line

/// The first line with more than kMaxDots dots between what may be parts of names, a.b.c...; 0 where there is none.
/// toml++ frees a table in a table in a table by recursion, a call for each part.
std::size_t line_of_deep_name(std::string_view contents) {
  constexpr std::string_view kEnds = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-\"'";
  const auto is_end = [&](std::size_t at) { return at < contents.size() && kEnds.find(contents[at]) != kEnds.npos; };
  std::size_t line = 1, dots = 0;
  for (std::size_t at = 0; at < contents.size(); ++at) {
    if (contents[at] == '\n') ++line, dots = 0;
    if (contents[at] != '.' || at == 0) continue;
    const std::size_t before = contents.find_last_not_of(" \t", at - 1),
                      behind = contents.find_first_not_of(" \t", at + 1);
    if (is_end(before) && is_end(behind) && ++dots > kMaxDots) return line;
  }
  return 0;
}

/// One parsed file; where it is wrong, with its name and line.
class Reading {
 public:
  Reading(const CLI::App& app, std::string path)
      : app_(app),
        path_(std::move(path)),
        chosen_(app.get_subcommands().empty() ? nullptr : app.get_subcommands()[0]) {}

  std::vector<CLI::ConfigItem> items(const toml::table& root) {
    for (const auto& [key, node] : root) {  // tables first: CLI11 keeps what it is given first
      if (const toml::table* table = node.as_table()) add_table(std::string(key.str()), *table, node);
    }
    for (const auto& [key, node] : root) {
      if (!node.is_table()) add_shared(std::string(key.str()), node);
    }
    return std::move(items_);
  }

  [[noreturn]] void refuse(const toml::source_region& at, std::string what, std::string fix) const {
    throw Error({.kind = ErrorKind::input,
                 .where = text(path_, ": line ", at.begin.line),
                 .what = std::move(what),
                 .fix = std::move(fix)});
  }

 private:
  static std::string option_name(std::string key) {
    std::ranges::replace(key, '_', '-');
    return key;
  }

  static bool has(const CLI::App& command, const std::string& name) {
    const CLI::Option* option = command.get_option_no_throw("--" + name);
    return option != nullptr && option->get_configurable() && name != "help";
  }

  [[noreturn]] void refuse_name(const std::string& key, const toml::node& node,
                                const std::vector<const CLI::App*>& commands) const {
    std::vector<std::string> names;
    for (const CLI::App* command : commands) {
      for (const CLI::Option* option : command->get_options()) {
        for (const std::string& name : option->get_lnames()) {
          if (has(*command, name)) names.push_back(name);
        }
      }
    }
    std::ranges::sort(names);
    names.erase(std::ranges::unique(names).begin(), names.end());
    const std::vector<std::string> nearest = nearest_names(option_name(key), names, 2);
    refuse(node.source(), text("\"", key, "\" is no option"),
           nearest.empty() ? "layerprobe COMMAND --help lists the options"
                           : text("did you mean ", join(nearest, " or "), "?"));
  }

  void add_table(const std::string& name, const toml::table& table, const toml::node& at) {
    const auto commands = app_.get_subcommands([&](const CLI::App* each) { return each->get_name() == name; });
    if (commands.empty()) refuse(at.source(), text("\"", name, "\" is no command"), "layerprobe --help lists them");
    for (const auto& [key, node] : table) {
      const std::string option = option_name(std::string(key.str()));
      if (!has(*commands.front(), option)) refuse_name(std::string(key.str()), node, {commands.front()});
      add(*commands.front(), option, node);
    }
  }

  void add_shared(const std::string& key, const toml::node& node) {
    const std::string option = option_name(key);
    if (chosen_ != nullptr && has(*chosen_, option)) return add(*chosen_, option, node);
    const auto all = app_.get_subcommands([](const CLI::App*) { return true; });
    if (std::ranges::any_of(all, [&](const CLI::App* each) { return has(*each, option); })) return;
    refuse_name(key, node, {all.begin(), all.end()});
  }

  void add(const CLI::App& command, const std::string& option, const toml::node& node) {
    const bool is_flag = command.get_option_no_throw("--" + option)->get_expected_min() == 0;
    if (is_flag) {
      const std::optional<bool> value = node.is_boolean() ? node.value<bool>() : std::nullopt;
      if (!value) refuse(node.source(), text("\"", option, "\" is true or false"), text("write ", option, " = true"));
      if (!*value) return;  // to CLI11 it would be given, and two may exclude each other
    }
    CLI::ConfigItem item;
    item.parents = {command.get_name()};
    item.name = option;
    if (const toml::array* array = node.as_array()) {
      for (const toml::node& element : *array) item.inputs.push_back(value_of(option, element));
    } else {
      item.inputs.push_back(value_of(option, node));
    }
    if (item.inputs.empty()) return;
    items_.push_back(std::move(item));
  }

  std::string value_of(const std::string& option, const toml::node& node) const {
    if (const auto* value = node.as_string()) {
      return option == "prompt" ? kTextMark + value->get() : value->get();
    }
    if (const auto* value = node.as_boolean()) return value->get() ? "true" : "false";
    if (const auto* value = node.as_integer()) return text(value->get());
    if (const auto* value = node.as_floating_point(); value != nullptr && std::isfinite(value->get())) {
      return text(value->get());
    }
    refuse(node.source(), text("\"", option, "\" is neither text nor a number"),
           "write text in quotes, a number, true or false, or a list of them");
  }

  const CLI::App& app_;
  const std::string path_;
  const CLI::App* const chosen_;
  std::vector<CLI::ConfigItem> items_;
};

/// A TOML string: in single quotes where that holds it, so that JSON stays readable.
std::string toml_string(const std::string& value) {
  const bool is_plain =
      std::ranges::none_of(value, [](unsigned char c) { return (c < 0x20 && c != '\t') || c == 0x7f || c == '\''; });
  if (is_plain && value.find_first_of("\"\\") != std::string::npos) return text('\'', value, '\'');
  std::string out = "\"";
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += text('\\', c);
    } else if (byte < 0x20 || byte == 0x7f) {
      constexpr const char* kDigits = "0123456789abcdef";
      out += text("\\u00", kDigits[byte >> 4], kDigits[byte & 15]);
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace

std::vector<CLI::ConfigItem> ConfigFile::from_config(std::istream& input) const {
  const std::string path = app_.get_config_ptr()->as<std::string>();
  std::string contents(kMaxBytes + 1, '\0');
  input.read(contents.data(), static_cast<std::streamsize>(contents.size()));
  contents.resize(static_cast<std::size_t>(input.gcount()));
  Reading reading(app_, path);
  if (contents.size() > kMaxBytes) {
    throw Error({.kind = ErrorKind::input,
                 .where = path,
                 .what = text("has more than ", kMaxBytes, " bytes"),
                 .fix = "name a file of options; prompts may stand in one of their own (--prompts)"});
  }
  if (const std::size_t line = line_of_deep_name(contents); line > 0) {
    throw Error({.kind = ErrorKind::input,
                 .where = text(path, ": line ", line),
                 .what = text("has more than ", kMaxDots, " dots between words, as a name of so many parts"),
                 .fix = "name a file of options; prompts may stand in one of their own (--prompts)"});
  }
  try {
    return reading.items(toml::parse(contents));
  } catch (const toml::parse_error& error) {
    reading.refuse(error.source(), text("is no TOML: ", error.description()),
                   "write a line as in dtype = \"float32\"; --print-config shows all options");
  }
}

std::string ConfigFile::to_config(const CLI::App* app, bool default_also, bool write_description,
                                  std::string /*prefix*/) const {
  std::string out = text("[", app->get_name(), "]\n");
  for (const CLI::Option* option : app->get_options()) {
    if (!option->get_configurable() || option->get_lnames().empty() || option->get_lnames().front() == "help") continue;
    const bool is_flag = option->get_expected_min() == 0 && option->get_expected_max() == 0;
    std::vector<std::string> values = option->results();
    if (values.empty() && default_also && !option->get_default_str().empty()) values = {option->get_default_str()};
    if (values.empty()) continue;
    for (std::string& value : values) {
      if (value.starts_with(kTextMark)) value.erase(0, 1);
      if (!is_flag) value = toml_string(value);
    }
    if (write_description) out += text("# ", option->get_description(), "\n");
    out += text(option->get_lnames().front(), " = ",
                values.size() == 1 ? values.front() : text("[", join(values, ", "), "]"), "\n");
  }
  return out;
}

}  // namespace layerprobe::cli
