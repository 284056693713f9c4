#include "cli/inspect.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iostream>
#include <memory>
#include <string_view>

#include "base/file.h"
#include "base/json.h"
#include "cli/command.h"
#include "model/config.h"
#include "model/points.h"
#include "weights/checkpoint.h"

namespace layerprobe::cli {
namespace {

struct InspectOptions {
  std::string what;
  bool tensors = false;
  bool points = false;
  bool json = false;
};

/// A regular file that begins as HDF5 does, or is named as one.
bool is_capture(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  for (const std::string_view ending : {".h5", ".hdf5", ".partial"}) {
    if (name.ends_with(ending)) return true;
  }
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  const File file = File::open_for_reading(path);
  if (file.size() < kSignature.size()) return false;
  std::array<char, kSignature.size()> beginning{};
  file.read_at(0, std::as_writable_bytes(std::span(beginning)));
  return std::string_view(beginning.data(), beginning.size()) == kSignature;
}

/// Every name that --capture can ask for, one a line.
void print_points(const std::string& name, bool json) {
  const weights::Checkpoint checkpoint = weights::Checkpoint::open(name);
  const model::ModelConfig config = model::read_config(checkpoint.config(), checkpoint.path().string());
  Json names(Json::Array{});
  for (const ProbePoint& point : model::all_points(config, Dtype::bf16)) {
    if (json) {
      names.push(point.name);
    } else {
      std::cout << point.name << "\n";
    }
  }
  if (json) std::cout << names.dump(2) << "\n";
}

ExitCode run(const InspectOptions& options) {
  std::error_code ignored;
  if (is_capture(options.what) && !std::filesystem::is_directory(options.what, ignored)) {
    inspect_capture(options.what, options.json);
  } else if (options.points) {
    print_points(options.what, options.json);
  } else {
    inspect_model(options.what, options.tensors, options.json);
  }
  return ExitCode::success;
}

}  // namespace

void add_inspect(CLI::App& app, Command& chosen) {
  const auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "Show what is in a captured file or a model");
  command
      ->add_option(
          "what", options->what,
          "A captured run (.h5, also a partial one), or a model: a folder with config.json, a .gguf file, or an "
          "org/name id in the local Hugging Face cache")
      ->required();
  command->add_flag("--tensors", options->tensors, "List every tensor of a model, not only its layers");
  command->add_flag("--points", options->points, "List the points of a model, as --capture of run names them");
  command->add_flag("--json", options->json, "Print one JSON document");
  command->callback([&chosen, options] { chosen = [options] { return run(*options); }; });
}

}  // namespace layerprobe::cli
