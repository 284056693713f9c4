#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/probe_point.h"
#include "base/prompts.h"

namespace layerprobe::plan {

/// "3", "0-7", "0,8,-1" (negative: from the end): rising, each once. Throws Error(usage) naming --layers.
std::vector<std::int64_t> parse_layers(std::string_view text, std::int64_t num_hidden_layers);

/// --tokens: which positions of each prompt are kept.
struct TokenSelection {
  enum class Kind { all, last, range, mean };
  Kind kind = Kind::all;
  std::optional<std::int64_t> start, stop;  // of a range, as Python slices: negative counts from the prompt's end
  std::int64_t step = 1;                    // at least 1
};

/// "all", "last", "mean" or "START:STOP:STEP" (each part may be left out). Throws Error(usage) naming --tokens.
TokenSelection parse_tokens(std::string_view text);

CapturedRows select_rows(const TokenSelection& selection, const Prompts& prompts);

/// The points that one of `patterns` matches, in the order of `available`. Throws Error(usage) naming --capture for a
/// pattern that matches none: with the nearest names, or, when one of `all` has it, what this `test_type` lacks.
std::vector<ProbePoint> select_points(std::span<const std::string> patterns, std::span<const ProbePoint> available,
                                      std::span<const ProbePoint> all, std::string_view test_type);

}  // namespace layerprobe::plan
