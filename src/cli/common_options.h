#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "base/json.h"
#include "runtime/session.h"

namespace layerprobe::cli {

/// What run and plan are given alike.
struct CommonArguments {
  runtime::RunOptions run;
  std::string test_type = "extract-all";
  std::string transport = "auto";
  std::string shard;
  std::string fp8_math = "dequantize";
  bool json = false;
  bool quiet = false;
};

/// Declares them: model, test type, layers, input, dtype, devices, points, batch, output, --json, --quiet.
void add_common_options(CLI::App& command, CommonArguments& common);

/// The options once all are read. Throws Error(usage) for a test type that there is not.
runtime::RunOptions& finished(CommonArguments& common);

/// "shard 2/4: prompts 20 to 29 of 40"
std::string shard_text(const runtime::Part& part);
Json shard_json(const std::optional<runtime::Part>& part);

}  // namespace layerprobe::cli
