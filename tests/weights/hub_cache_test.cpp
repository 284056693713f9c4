#include "weights/hub_cache.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "tests/support/model_files.h"

namespace layerprobe::weights {
namespace {

namespace fs = std::filesystem;

/// Sets or clears an environment variable until the end of the scope.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    value.empty() ? unsetenv(name) : setenv(name, value.c_str(), 1);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

/// Only these two say where the cache is.
struct Cache {
  Environment hub_cache{"HF_HUB_CACHE", ""};
  Environment old_hub_cache{"HUGGINGFACE_HUB_CACHE", ""};
  Environment xdg{"XDG_CACHE_HOME", ""};
  Environment hf_home;
  Environment home;
  Cache(const fs::path& hf_home_path, const fs::path& home_path)
      : hf_home("HF_HOME", hf_home_path.string()), home("HOME", home_path.string()) {}
};

}  // namespace

TEST_CASE("an id is two plain names") {
  CHECK(is_hub_id("Qwen/Qwen3-0.6B"));
  CHECK_FALSE(is_hub_id("gpt2"));
  CHECK_FALSE(is_hub_id("a/b/c"));
  CHECK_FALSE(is_hub_id("../b"));
  CHECK_FALSE(is_hub_id("/b"));
  CHECK_FALSE(is_hub_id("a/b c"));
}

TEST_CASE("an id's snapshot is that of refs/main") {
  const test::TempFolder folder;
  const Cache cache(folder.path() / "hf", folder.path());
  folder.write("hf/hub/models--org--name/refs/main", "bbb\n");
  folder.write("hf/hub/models--org--name/snapshots/aaa/config.json", "{}");
  folder.write("hf/hub/models--org--name/snapshots/bbb/config.json", "{}");
  CHECK(find_in_hub_cache("org/name") == folder.path() / "hf/hub/models--org--name/snapshots/bbb");
}

TEST_CASE("without refs/main the only snapshot is taken") {
  const test::TempFolder folder;
  const Cache cache("", folder.path());
  folder.write(".cache/huggingface/hub/models--org--name/snapshots/aaa/config.json", "{}");
  CHECK(find_in_hub_cache("org/name").filename() == "aaa");
  folder.write(".cache/huggingface/hub/models--org--name/snapshots/bbb/config.json", "{}");
  CHECK_THROWS_AS(find_in_hub_cache("org/name"), Error);
}

TEST_CASE("HF_HUB_CACHE goes before HF_HOME, and ~ is the home folder") {
  const test::TempFolder folder;
  const Cache cache(folder.path() / "hf", folder.path());
  const Environment hub_cache("HF_HUB_CACHE", "~/mine");
  folder.write("hf/hub/models--org--name/snapshots/aaa/config.json", "{}");
  CHECK(find_in_hub_cache("org/name").filename() == "aaa");
  folder.write("mine/models--org--name/snapshots/bbb/config.json", "{}");
  CHECK(find_in_hub_cache("org/name").filename() == "bbb");
}

TEST_CASE("an id that is not in the cache says where it looked and how to fetch it") {
  const test::TempFolder folder;
  const Cache cache(folder.path() / "hf", folder.path());
  const std::string looked = (folder.path() / "hf/hub/models--org--name").string() + ", " +
                             (folder.path() / ".cache/huggingface/hub/models--org--name").string();
  CHECK_THROWS_WITH_AS(find_in_hub_cache("org/name"),
                       doctest::Contains(("looked in " + looked + "\n  help: fetch it: hf download org/name").c_str()),
                       Error);
}

TEST_CASE("a refs/main that holds a path is refused") {
  const test::TempFolder folder;
  const Cache cache(folder.path() / "hf", folder.path());
  folder.write("hf/hub/models--org--name/refs/main", "../../../elsewhere");
  CHECK_THROWS_WITH_AS(find_in_hub_cache("org/name"), doctest::Contains("refs/main: holds no revision"), Error);
}

}  // namespace layerprobe::weights
