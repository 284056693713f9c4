#include <string>

#include "base/error.h"
#include "cli/command.h"

namespace layerprobe::cli {

void add_compare(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("compare", "Show where two captured runs start to differ");
  command->add_option("reference")->required();
  command->add_option("candidate")->required();
  command->add_option("--max-rel-l2");
  command->callback([&chosen] {
    chosen = []() -> ExitCode {
      throw Error({.kind = ErrorKind::usage, .where = "compare", .what = "is not built yet", .fix = "wait for it"});
    };
  });
}

}  // namespace layerprobe::cli
