#include "placement/by_name.h"

#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::placement {
namespace {

constexpr const char* kOption = "--device-map";
constexpr std::size_t kNamesInMessage = 6;

/// All modules down to the layers, which are not entered.
void collect(const TreeModule& module, std::unordered_set<std::string>& names) {
  names.insert(module.name);
  if (module.is_no_split) return;
  for (const TreeModule& child : module.children) collect(child, names);
}

/// The name as this program has it; as it was typed where nothing of that name is known.
std::string resolved(std::string name, const std::unordered_set<std::string>& known) {
  for (const std::string_view prefix : {"model.language_model", "language_model.model"}) {
    if (is_within(name, prefix)) return "model" + name.substr(prefix.size());
  }
  if (name == "language_model") return "";
  if (name.starts_with("language_model.")) name.erase(0, std::string_view("language_model.").size());
  if (!known.contains(name) && known.contains("model." + name)) return "model." + name;
  return name;
}

Error unknown(const std::string& name, const std::unordered_set<std::string>& known) {
  for (std::string above = name; above.rfind('.') != std::string::npos;) {
    above.resize(above.rfind('.'));
    if (!known.contains(above) || above == "model" || above == "model.layers") continue;
    return Error({.kind = ErrorKind::usage,
                  .where = kOption,
                  .what = text("\"", name, "\" is a part of ", above, ", which goes to one device as a whole"),
                  .fix = text("name ", above)});
  }
  std::vector<std::string> candidates;
  for (const std::string& each : known) {
    if (!each.empty()) candidates.push_back(each);
  }
  std::ranges::sort(candidates);
  const std::vector<std::string> nearest = nearest_names(name, candidates);
  return Error(
      {.kind = ErrorKind::usage,
       .where = kOption,
       .what = text("the model has no module \"", name.substr(0, 200), "\""),
       .fix = nearest.empty()
                  ? std::string("name model.embed_tokens, model.layers.N, model.norm, lm_head or what is above")
                  : text("did you mean ", join(nearest, " or "), "?")});
}

}  // namespace

std::vector<Target> targets_by_name(const Request& request) {
  std::unordered_set<std::string> known;
  collect(request.tree, known);
  std::map<std::string, Target> targets;
  for (const auto& [typed, target] : request.map.modules) {
    std::string name = resolved(typed, known);
    if (!known.contains(name) && name.ends_with(".weight")) {
      const std::string module = resolved(typed.substr(0, typed.rfind('.')), known);
      if (known.contains(module) && module != "model" && !module.starts_with("model.layers")) name = module;
    }
    if (!known.contains(name)) throw unknown(typed, known);
    const auto [at, is_new] = targets.emplace(name, target);
    if (is_new || at->second == target) continue;
    throw Error({.kind = ErrorKind::usage,
                 .where = kOption,
                 .what = text("\"", typed, "\" names ", name, " a second time, for another device"),
                 .fix = "name each module once"});
  }

  std::vector<Target> out;
  std::vector<std::string> left_out;
  for (const Module& module : request.work.modules) {
    std::string prefix = module.name;
    auto found = targets.find(prefix);
    while (found == targets.end() && !prefix.empty()) {
      const std::size_t dot = prefix.rfind('.');
      prefix.resize(dot == std::string::npos ? 0 : dot);
      found = targets.find(prefix);
    }
    if (found == targets.end()) {
      left_out.push_back(module.name);
    } else {
      out.push_back(found->second);
    }
  }
  if (left_out.empty()) return out;
  const std::size_t shown = std::min(left_out.size(), kNamesInMessage);
  throw Error({.kind = ErrorKind::usage,
               .where = kOption,
               .what = text("leaves out ", join(std::span(left_out).first(shown), ", "),
                            left_out.size() > shown ? text(" and ", left_out.size() - shown, " more") : ""),
               .fix = text("name them, or give \"\" a device for all the rest: {..., \"\": ", "\"",
                           name_of(request.devices.front().device), "\"}")});
}

}  // namespace layerprobe::placement
