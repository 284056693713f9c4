#include "base/probe_point.h"

#include <charconv>

namespace layerprobe {
namespace {

constexpr std::string_view kLayers = ".layers.";

/// What follows the layer's number: "" for the layer itself; nothing when `name` is in no layer.
struct InLayer {
  int layer = -1;
  std::string_view rest;
};

InLayer in_layer(std::string_view name) {
  const std::size_t found = name.find(kLayers);
  if (found == std::string_view::npos) return {};
  name.remove_prefix(found + kLayers.size());
  int layer = -1;
  const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (problem != std::errc{} || layer < 0) return {};
  name.remove_prefix(static_cast<std::size_t>(end - name.data()));
  if (!name.empty() && name.front() != '.' && name.front() != ':') return {};
  return {.layer = layer, .rest = name};
}

}  // namespace

bool matches(std::string_view pattern, std::string_view name) {
  // Greedy with one point to go back to for '*' and one for '**': linear space, at most quadratic time.
  std::size_t p = 0, n = 0;
  std::size_t star_p = std::string_view::npos, star_n = 0;
  std::size_t deep_p = std::string_view::npos, deep_n = 0;
  while (n < name.size() || p < pattern.size()) {
    if (pattern.substr(p).starts_with("**")) {
      p += 2;
      deep_p = p;
      deep_n = n;
      star_p = std::string_view::npos;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star_p = ++p;
      star_n = n;
    } else if (p < pattern.size() && n < name.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star_p != std::string_view::npos && star_n < name.size() && name[star_n] != '.' && name[star_n] != ':') {
      p = star_p;
      n = ++star_n;
    } else if (deep_p != std::string_view::npos && deep_n < name.size()) {
      p = deep_p;
      n = ++deep_n;
      star_p = std::string_view::npos;
    } else {
      return false;
    }
  }
  return true;
}

std::string_view semantics_of(std::string_view name) {
  if (name.ends_with(":input")) return "module_input";
  const InLayer place = in_layer(name);
  if (place.layer >= 0) return place.rest.empty() ? "residual_after_block" : "module_output";
  if (name.ends_with("embed_tokens")) return "embedding";
  if (name.ends_with(".norm")) return "post_final_norm";
  if (name == "lm_head") return "logits";
  return "module_output";
}

int layer_of(std::string_view name) { return in_layer(name).layer; }

}  // namespace layerprobe
