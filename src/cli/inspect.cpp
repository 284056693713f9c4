#include <string>

#include "base/error.h"
#include "cli/command.h"

namespace layerprobe::cli {

void add_inspect(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("inspect", "Show what is in a captured file or a model");
  command->callback([&chosen] {
    chosen = []() -> ExitCode {
      throw Error({.kind = ErrorKind::usage, .where = "inspect", .what = "is not built yet", .fix = "wait for it"});
    };
  });
}

}  // namespace layerprobe::cli
