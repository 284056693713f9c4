#include "placement/device_map.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "base/text.h"
#include "tests/support/temp_folder.h"

namespace layerprobe::placement {
namespace {

using Strategy = DeviceMap::Strategy;
constexpr Device kCuda0{Device::Kind::cuda, 0}, kCuda1{Device::Kind::cuda, 1}, kCpu1{Device::Kind::cpu, 1};

Target whole(std::string_view given) {
  const DeviceMap map = parse_device_map(given);
  REQUIRE(map.strategy == Strategy::by_name);
  REQUIRE(map.modules.size() == 1);
  CHECK(map.modules[0].first.empty());
  return map.modules[0].second;
}

void refused(std::string_view given, const char* message) {
  CAPTURE(given);
  CHECK_THROWS_WITH_AS(parse_device_map(given), doctest::Contains(message), Error);
}

}  // namespace

TEST_CASE("a strategy is a word") {
  CHECK(parse_device_map("auto").strategy == Strategy::even);
  CHECK(parse_device_map(" balanced ").strategy == Strategy::balanced);
  CHECK(parse_device_map("balanced_low_0").strategy == Strategy::balanced_low_0);
  CHECK(parse_device_map("sequential").strategy == Strategy::sequential);
}

TEST_CASE("one device takes the whole model") {
  CHECK(whole("cuda") == Target{.device = kCuda0});
  CHECK(whole("cuda:1") == Target{.device = kCuda1});
  CHECK(whole("1") == Target{.device = kCuda1});
  CHECK(whole("cpu") == Target{.device = {Device::Kind::cpu, 0}});
  CHECK(whole("cpu:1") == Target{.device = kCpu1});
}

TEST_CASE("a list of devices is auto over these") {
  const DeviceMap map = parse_device_map("cuda:1, cuda:0");
  CHECK(map.strategy == Strategy::even);
  CHECK(map.devices == std::vector{kCuda1, kCuda0});
  CHECK(parse_device_map("0,1").devices == std::vector{kCuda0, kCuda1});
  refused("cuda:0,cuda:0", "stands in it twice");
  refused("cuda:0,cpu:0", "mixes cuda:0 and cpu:0");
  refused("cuda:0,cpu", "\"cpu\" is no device that computes");
  refused("cuda:0,", "\"\" is no device");
}

TEST_CASE("a JSON object names modules and devices, in the option or in a file") {
  const char* json =
      R"({"model.embed_tokens": 0, "model.layers.1": "cuda:1", "model": "1", "lm_head": "cpu", "": "disk"})";
  const test::TempFolder folder;
  const std::string file = text("@", folder.write("map.json", json).string());
  for (const std::string& given : {std::string(json), file}) {
    const DeviceMap map = parse_device_map(given);
    CHECK(map.strategy == Strategy::by_name);
    REQUIRE(map.modules.size() == 5);
    CHECK(map.modules[0] == std::pair{std::string("model.embed_tokens"), Target{.device = kCuda0}});
    CHECK(map.modules[2].second == Target{.device = kCuda1});
    CHECK(map.modules[3].second == Target{.kind = Target::Kind::host});
    CHECK(map.modules[4].second == Target{.kind = Target::Kind::disk});
  }
}

TEST_CASE("what is no map is refused with what would be one") {
  refused("", "is empty");
  refused("atuo", "did you mean auto?");
  refused("ballanced", "did you mean balanced?");
  refused("gpu:0", "is no map");
  refused("-1", "write cpu for the host");
  refused("cuda:99999", "is no map");
  refused("{", "--device-map");
  refused("{}", "is an empty object");
  refused(R"({"model": 0, "model": 1})", "model");
  refused(R"({"model": -1})", "-1 is no GPU's number; the host's memory is \"cpu\"");
  refused(R"({"model": 0.5})", "is number where a device is expected");
  refused(R"({"model": "dsk"})", "did you mean disk?");
  refused("@no-such-file.json", "no-such-file.json");
}

TEST_CASE("any text is a map or an Error") {
  const std::string seeds[] = {R"({"model.layers.1": "cuda:1", "": 0})", "cuda:0,cuda:1", "balanced_low_0", "@x", "-1"};
  for (const std::string& seed : seeds) {
    for (std::size_t at = 0; at < seed.size(); ++at) {
      for (int value = 0; value < 256; ++value) {
        std::string changed = seed;
        changed[at] = static_cast<char>(value);
        for (const std::string& given : {changed, changed.substr(0, at), changed.substr(at)}) {
          if (given.starts_with("@")) continue;  // what a file holds is for the file's own tests
          try {
            parse_device_map(given);
          } catch (const Error& error) {
            CHECK(error.kind() == ErrorKind::usage);
          }
        }
      }
    }
  }
}

}  // namespace layerprobe::placement
