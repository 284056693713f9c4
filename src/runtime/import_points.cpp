#include "runtime/import_points.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::runtime {
namespace {

std::vector<std::int64_t> layer_ids(const std::string& given) {
  std::vector<std::int64_t> out;
  for (const std::string& word : split(given, ',')) {
    const std::string_view number = trimmed(word);
    std::int64_t id = -1;
    const auto [end, problem] = std::from_chars(number.data(), number.data() + number.size(), id);
    if (problem != std::errc{} || end != number.data() + number.size() || id < 0 || id > 100000) {
      throw Error({.kind = ErrorKind::usage,
                   .where = text("--vllm-layers ", given),
                   .what = text("\"", number, "\" is no layer id"),
                   .fix = "give eagle_aux_hidden_state_layer_ids as the server had them, as 1,2,36"});
    }
    out.push_back(id);
  }
  return out;
}

}  // namespace

Found matched(std::vector<Array> arrays, const std::vector<std::string>& map) {
  std::vector<NamePattern> patterns;
  for (const std::string& each : map) patterns.emplace_back(each);
  if (map.empty()) {
    patterns.emplace_back("{prompt}/{point}");
    patterns.emplace_back("{point}");
  }
  Found out;
  for (Array& array : arrays) {
    std::optional<NamePattern::Match> match;
    for (const NamePattern& pattern : patterns) {
      if ((match = pattern.match(array.name))) break;
    }
    const bool is_point = match && (!map.empty() || match->point.starts_with("model.") ||
                                    match->point.starts_with("lm_head") || match->point == "input_ids");
    if (!is_point) {
      out.left_out.push_back(array.name);
      continue;
    }
    const auto twice = [&](const Array& other) {
      return bad_input(array.where, text("is ", match->point, " as ", other.where, " is, of the same prompt"),
                       "give a --map that tells them apart");
    };
    if (match->point == "input_ids") {
      if (!out.ids.emplace(match->prompt.value_or(""), ids_of(array)).second) throw twice(array);
      continue;
    }
    if (match->point.find('/') != std::string::npos || match->point.size() > 1000) {
      throw bad_input(array.where, text("would be the point \"", match->point, "\", which is no name of one"),
                      "give a --map to names as model.layers.3.mlp");
    }
    set_rows(array);
    kept_as(array);
    if (!match->prompt) {
      const auto [at, is_new] = out.whole.emplace(match->point, array);
      if (!is_new) throw twice(at->second);
    } else {
      const auto [at, is_new] = out.by_prompt[match->point].emplace(*match->prompt, array);
      if (!is_new) throw twice(at->second);
    }
  }
  if (!out.whole.empty() || !out.by_prompt.empty()) return out;
  out.left_out.resize(std::min<std::size_t>(out.left_out.size(), 3));
  throw bad_input(arrays.front().file.string(),
                  text("no array's name is that of a point; there are ", join(out.left_out, ", "), ", ..."),
                  "say what they are: --map 'layer_{layer} = model.layers.{layer}'");
}

Found of_vllm(std::vector<Array> arrays, const std::string& given) {
  const std::vector<std::int64_t> ids = layer_ids(given);
  Found out;
  for (Array& array : arrays) {
    const std::size_t slash = array.name.rfind('/');
    const std::string prompt = array.name.substr(0, slash);
    const std::string tensor = slash == std::string::npos ? "" : array.name.substr(slash + 1);
    if (tensor == "token_ids") {
      out.ids.emplace(prompt, ids_of(array));
    } else if (tensor != "hidden_states") {
      out.left_out.push_back(array.name);
    } else {
      const auto layers = static_cast<std::int64_t>(ids.size());
      if (array.shape.size() != 3 || array.shape[1] != layers || array.shape[0] < 1 || array.shape[2] < 1) {
        throw bad_input(array.where,
                        text("has shape ", shape_text(array.shape), " where --vllm-layers names ", layers,
                             " layers: [tokens, ", layers, ", hidden_size]"),
                        "give eagle_aux_hidden_state_layer_ids as the server had them");
      }
      kept_as(array);
      array.rows = array.shape[0];
      array.width = array.shape[2];
      const std::uint64_t bytes = static_cast<std::uint64_t>(array.width) * array.element_bytes();
      array.row_stride = bytes * ids.size();
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const std::string point = ids[i] == 0 ? std::string("model.embed_tokens") : text("model.layers.", ids[i] - 1);
        Array layer = array;
        layer.offset += i * bytes;
        if (out.by_prompt[point].emplace(prompt, std::move(layer)).second) continue;
        throw Error({.kind = ErrorKind::usage,
                     .where = "--vllm-layers " + given,
                     .what = text("names ", ids[i], " twice"),
                     .fix = "give eagle_aux_hidden_state_layer_ids as the server had them"});
      }
    }
  }
  if (!out.by_prompt.empty()) return out;
  throw bad_input(arrays.front().file.string(), "holds no tensor hidden_states, as vLLM's connector writes it",
                  "leave --vllm-layers out for other files");
}

}  // namespace layerprobe::runtime
