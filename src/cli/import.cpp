#include "runtime/import.h"

#include <iostream>
#include <memory>

#include "base/bytes.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/share_done.h"
#include "cli/table.h"

namespace layerprobe::cli {
namespace {

struct ImportArguments {
  runtime::ImportOptions options;
  bool overwrite = false;
  bool json = false;
};

void print(const runtime::ImportReport& report) {
  const auto counted = [](std::int64_t count, const char* noun) {
    return text(count, " ", noun, count == 1 ? "" : "s");
  };
  if (report.took_v2_as_bfloat16) std::cerr << "note: two-byte values without a name (V2) were taken for bfloat16\n";
  if (!report.has_input_ids) {
    std::cerr << "note: without token ids only runs without them can be compared with it; give --input-ids\n";
  }
  if (!report.left_out.empty()) {
    std::cerr << "note: left out " << counted(static_cast<std::int64_t>(report.left_out.size()), "array")
              << " that no --map names, the first is " << printable(report.left_out.front()) << "\n";
  }
  std::cout << "wrote " << printable(report.output) << ": " << counted(report.num_points, "point") << ", "
            << counted(report.num_prompts, "prompt") << ", " << counted(report.num_rows, "row") << ", "
            << bytes_text(report.bytes) << "\n";
}

Json json_of(const runtime::ImportReport& report) {
  Json left_out(Json::Array{});
  for (const std::string& each : report.left_out) left_out.push(each);
  Json out;
  out.set("output", report.output);
  out.set("num_points", report.num_points);
  out.set("num_prompts", report.num_prompts);
  out.set("num_rows", report.num_rows);
  out.set("bytes", report.bytes);
  out.set("has_input_ids", report.has_input_ids);
  out.set("took_v2_as_bfloat16", report.took_v2_as_bfloat16);
  out.set("left_out", std::move(left_out));
  return out;
}

ExitCode run(ImportArguments& arguments) {
  using IfExists = store::Writer::IfExists;
  arguments.options.if_exists = arguments.overwrite ? IfExists::overwrite : IfExists::refuse;
  ShareDone share_done("importing");
  const runtime::ImportReport report =
      runtime::import_arrays(arguments.options, [&](double share) { share_done.show(share); });
  share_done.finish();
  if (arguments.json) {
    std::cout << json_of(report).dump(2) << "\n";
  } else {
    print(report);
  }
  return ExitCode::success;
}

}  // namespace

void add_import(CLI::App& app, Command& chosen, const std::string& command_line) {
  const auto arguments = std::make_shared<ImportArguments>();
  runtime::ImportOptions& options = arguments->options;
  options.command_line = command_line;
  CLI::App* command =
      app.add_subcommand("import", "Make a captured file of another engine's .npy or .safetensors files");
  command->add_option("output", options.output, "The file to make")->required()->type_name("OUT.h5");
  command->add_option("sources", options.sources, "Folders with .npy and .safetensors files, or such files")
      ->required();
  command
      ->add_option("--map", options.map,
                   "What an array is by its name (path in the folder without the ending, /TENSOR behind it): "
                   "'out_{layer}_p{prompt} = model.layers.{layer-1}'; also {point} and *, and input_ids for a prompt's "
                   "tokens; repeatable, the first that matches counts. Default: '{prompt}/{point}', then '{point}'")
      ->type_name("'NAME = POINT'")
      ->take_all()
      ->allow_extra_args(false);
  command
      ->add_option(
          "--vllm-layers", options.vllm_layers,
          "The files are those of vLLM's extract_hidden_states: its eagle_aux_hidden_state_layer_ids, in order")
      ->type_name("1,2,36");
  command
      ->add_option("--input-ids", options.input_ids_file,
                   "The prompts' token ids, where the arrays do not have them: .json ([[1, 5], [7]]) or .npy")
      ->type_name("FILE");
  command->add_option("--tokens", options.tokens, "Which tokens the rows are: all of a prompt's, or its last")
      ->capture_default_str()
      ->type_name("all|last");
  command
      ->add_option(
          "--dtype", options.dtype,
          "What the engine computed in, which decides how near compare expects it. Default: what the arrays hold")
      ->type_name("DTYPE");
  command->add_option("--engine", options.engine, "What made them, kept in the file")->type_name("TEXT");
  command->add_flag("--overwrite", arguments->overwrite, "Replace an output that exists");
  command->add_flag("--json", arguments->json, "Print what was done as JSON");
  command->callback([&chosen, arguments] { chosen = [arguments] { return run(*arguments); }; });
}

}  // namespace layerprobe::cli
