#include "weights/hub_cache.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace layerprobe::weights {
namespace {

namespace fs = std::filesystem;

/// The variable's value with a leading "~" expanded; empty when it is not set.
fs::path path_from_environment(const char* variable) {
  const char* const value = std::getenv(variable);
  if (value == nullptr) return {};
  const std::string given = value;
  const char* const home = std::getenv("HOME");
  if (home != nullptr && (given == "~" || given.starts_with("~/"))) return home + given.substr(1);
  return given;
}

std::vector<fs::path> cache_folders() {
  std::vector<fs::path> out;
  const auto add = [&](const char* variable, const char* below) {
    const fs::path base = path_from_environment(variable);
    if (!base.empty()) out.push_back(*below == '\0' ? base : base / below);
  };
  add("HF_HUB_CACHE", "");
  add("HUGGINGFACE_HUB_CACHE", "");
  add("HF_HOME", "hub");
  add("XDG_CACHE_HOME", "huggingface/hub");
  add("HOME", ".cache/huggingface/hub");
  return out;
}

bool is_plain_name(std::string_view name) {
  const auto is_allowed = [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; };
  return !name.empty() && name.front() != '.' && std::all_of(name.begin(), name.end(), is_allowed);
}

/// The snapshot that refs/main names, else the only one; empty when there is none.
fs::path snapshot_of(const fs::path& repository, const std::string& id) {
  std::error_code ignored;
  const fs::path main_ref = repository / "refs" / "main";
  if (fs::is_regular_file(main_ref, ignored)) {
    std::string revision = read_text_file(main_ref, 1000);
    while (!revision.empty() && std::isspace(static_cast<unsigned char>(revision.back()))) revision.pop_back();
    if (!is_plain_name(revision)) {
      throw Error({.kind = ErrorKind::input,
                   .where = main_ref.string(),
                   .what = "holds no revision",
                   .fix = text("fetch the model again: hf download ", id)});
    }
    const fs::path snapshot = repository / "snapshots" / revision;
    return fs::is_directory(snapshot, ignored) ? snapshot : fs::path();
  }
  std::vector<fs::path> snapshots;
  for (const auto& entry : fs::directory_iterator(repository / "snapshots", ignored)) snapshots.push_back(entry.path());
  return snapshots.size() == 1 ? snapshots.front() : fs::path();
}

}  // namespace

bool is_hub_id(const std::string& model) {
  const std::vector<std::string> parts = split(model, '/');
  return parts.size() == 2 && is_plain_name(parts[0]) && is_plain_name(parts[1]);
}

fs::path find_in_hub_cache(const std::string& id) {
  const std::vector<std::string> parts = split(id, '/');
  expect(is_hub_id(id), "the cache is asked for an org/name id");
  std::vector<std::string> looked_in;
  for (const fs::path& folder : cache_folders()) {
    const fs::path repository = folder / text("models--", parts[0], "--", parts[1]);
    const fs::path snapshot = snapshot_of(repository, id);
    if (!snapshot.empty()) return snapshot;
    looked_in.push_back(repository.string());
  }
  throw Error({.kind = ErrorKind::input,
               .where = id,
               .what = text("is no folder or file here, and not in the local Hugging Face cache; looked in ",
                            join(looked_in, ", ")),
               .fix = text("fetch it: hf download ", id)});
}

}  // namespace layerprobe::weights
