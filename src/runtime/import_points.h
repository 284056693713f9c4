#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/array_names.h"
#include "runtime/import_arrays.h"

namespace layerprobe::runtime {

struct NaturalOrder {
  bool operator()(const std::string& a, const std::string& b) const { return comes_before(a, b); }
};

/// What was found: a point's arrays by prompt, or the one of all prompts.
struct Found {
  std::map<std::string, std::map<std::string, Array, NaturalOrder>> by_prompt;  // of each point
  std::map<std::string, Array> whole;
  std::map<std::string, std::vector<std::int32_t>, NaturalOrder> ids;  // by prompt; "" of a whole
  std::vector<std::string> left_out;
};

/// By --map's patterns (none: "{prompt}/{point}" and "{point}", of names that points have). Throws Error(usage) for a
/// bad pattern, Error(input) where two arrays are the same point or none is one.
Found matched(std::vector<Array> arrays, const std::vector<std::string>& map);

/// vLLM's: each file a prompt, its layers one point each. `layers` are their ids, as --vllm-layers gives them.
Found of_vllm(std::vector<Array> arrays, const std::string& layers);

}  // namespace layerprobe::runtime
