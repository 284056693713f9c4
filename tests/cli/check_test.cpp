#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "device/backends.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

test::Finished check(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "check");
  return test::run_layerprobe(arguments);
}

/// The item of that name in --json's answer; null where there is none.
Json item(const Json& report, const std::string& name) {
  for (const Json& each : report.find("items")->items()) {
    if (each.find("name")->string() == name) return each;
  }
  return {};
}

std::string status_of(const Json& report, const std::string& name) {
  const Json found = item(report, name);
  return found.is_null() ? "none" : found.find("status")->string();
}

}  // namespace

TEST_CASE("check without a GPU says so first, checks the rest, and is not ready unless no GPU is asked for") {
  if (!device::gpus().empty()) return;
  const test::Finished without = check({});
  CHECK(without.exit_code == 1);
  CHECK(without.out.starts_with("fail  GPUs: none: "));
  CHECK(without.out.find("\n      expected: one at least, or --device-map cpu\n      help: ") != std::string::npos);
  CHECK(without.out.find("pass    cpu product") != std::string::npos);
  CHECK(without.out.find("not ready: ") != std::string::npos);
  CHECK(without.err.empty());
}

TEST_CASE("check of a whole model on virtual devices is ready at every level") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  for (const char* level : {"1", "3"}) {
    CAPTURE(level);
    const test::Finished finished = check({"--device-map", "cpu:0,cpu:1", "--model", folder.path().string(), "--output",
                                           (folder / "out.h5").string(), "--level", level, "--json"});
    REQUIRE_MESSAGE(finished.exit_code == 0, finished.out, finished.err);
    const Json report = Json::parse(finished.out, "check --json");
    CHECK(report.find("is_ready")->boolean());
    for (const char* name : {"HDF5", "checkpoint", "config", "tensors", "plan", "host memory", "cpu:0 product",
                             "cpu:1 product", "cpu:0 to others", "cpu:1 to others", "output space"}) {
      CAPTURE(name);
      CHECK(status_of(report, name) == "pass");
    }
    CHECK(status_of(report, "GPUs") == "skip");
    CHECK(status_of(report, "every byte") == (*level == '3' ? "pass" : "none"));
  }
  CHECK(!std::filesystem::exists(folder / "out.h5"));
}

TEST_CASE("check finds what would end a run after it was started") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  const auto failing = [&](std::vector<std::string> arguments, const std::string& name, const std::string& says) {
    CAPTURE(name);
    arguments.insert(arguments.end(), {"--model", folder.path().string(), "--json"});
    const test::Finished finished = check(arguments);
    CHECK(finished.exit_code == 1);
    REQUIRE_MESSAGE(finished.err.empty(), finished.err);
    const Json found = item(Json::parse(finished.out, "check --json"), name);
    REQUIRE_MESSAGE(!found.is_null(), finished.out);
    CHECK(found.find("status")->string() == "fail");
    CHECK_MESSAGE(found.find("measured")->string().find(says) != std::string::npos, finished.out);
    CHECK(!found.find("advice")->string().empty());
  };
  failing({"--device-map", "cpu", "--output", (folder / "no-such" / "out.h5").string()}, "output", "is no folder");
  failing({"--device-map", "cpu", "--prompt", "Hello"}, "tokenizer", "no such file");
  failing({"--device-map", "cpu", "--layers", "0-7", "--test-type", "multi"}, "plan", "--layers");
  failing({"--device-map", "cuda:77"}, "devices", "");
  const std::filesystem::path weights = folder / "model.safetensors";
  std::filesystem::resize_file(weights, std::filesystem::file_size(weights) - 1);
  failing({"--device-map", "cpu"}, "checkpoint", "model.safetensors");
}

TEST_CASE("options that say nothing that can be checked are errors") {
  const test::Finished map = check({"--device-map", "gpu"});
  CHECK(map.exit_code == 2);
  CHECK(map.err.find("--device-map") != std::string::npos);
  CHECK(check({"--level", "4"}).exit_code == 2);
  CHECK(check({"--model", "no/such/model/here", "--device-map", "cpu"}).exit_code == 1);
}

}  // namespace layerprobe
