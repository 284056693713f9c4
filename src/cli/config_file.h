#pragma once

#include <CLI/CLI.hpp>
#include <istream>
#include <string>
#include <vector>

namespace layerprobe::cli {

/// The file of --config: TOML 1.0. Keys are the long names of options (with "_" for "-" where one likes). What stands
/// before any table is of the subcommand that was chosen, where it has such an option, so that one file serves several;
/// what stands in a table, as in [run], is of that one alone, and counts more.
class ConfigFile : public CLI::Config {
 public:
  explicit ConfigFile(const CLI::App& app) : app_(app) {}

  /// Throws Error(input), naming file and line, for what is no TOML, no option, or no value of one.
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override;

  /// The options of `app` that were given, and with `default_also` those that have a default: a table named as it is.
  std::string to_config(const CLI::App* app, bool default_also, bool write_description,
                        std::string prefix) const override;

 private:
  const CLI::App& app_;
};

}  // namespace layerprobe::cli
