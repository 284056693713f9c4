#include "placement/max_memory.h"

#include <doctest/doctest.h>

#include "base/error.h"

namespace layerprobe::placement {
namespace {

constexpr std::uint64_t kGB = 1'000'000'000, kGiB = std::uint64_t{1} << 30;
using Devices = std::map<Device, std::uint64_t>;

Device cuda(int index) { return {Device::Kind::cuda, index}; }

void refused(std::string_view given, const char* message) {
  CAPTURE(given);
  CHECK_THROWS_WITH_AS(parse_max_memory(given), doctest::Contains(message), Error);
}

}  // namespace

TEST_CASE("a size alone is each device's, several are in order") {
  CHECK(parse_max_memory("40GB").each == 40 * kGB);
  CHECK(parse_max_memory("40gb").each == 40 * kGB);  // never bits
  CHECK(parse_max_memory("75GiB,40gib").in_order == std::vector<std::uint64_t>{75 * kGiB, 40 * kGiB});
  const MaxMemory with_host = parse_max_memory("40GB, cpu:100GB");
  CHECK(with_host.each == 40 * kGB);
  CHECK(with_host.host == 100 * kGB);
  CHECK_FALSE(parse_max_memory("").limits_devices());
  CHECK_FALSE(parse_max_memory("cpu:1GB").limits_devices());
}

TEST_CASE("the last colon separates a device from its size") {
  const MaxMemory given = parse_max_memory("0:60GB, cuda:1:40GiB ,cpu:200GB,disk:1GB");
  CHECK(given.devices == Devices{{cuda(0), 60 * kGB}, {cuda(1), 40 * kGiB}});
  CHECK(given.host == 200 * kGB);
  CHECK(parse_max_memory("cpu:0:4GB").devices == Devices{{Device{Device::Kind::cpu, 0}, 4 * kGB}});
  CHECK(parse_max_memory("0:0").devices == Devices{{cuda(0), 0}});
}

TEST_CASE("JSON is taken as transformers takes it, with names as strings") {
  const MaxMemory given = parse_max_memory(R"({"cuda:0": "10GB", "1": 1000, "cpu": "64GiB", "disk": "1GB"})");
  CHECK(given.devices == Devices{{cuda(0), 10 * kGB}, {cuda(1), 1000}});
  CHECK(given.host == 64 * kGiB);
}

TEST_CASE("what is no budget is refused with what would be one") {
  refused("40", "\"40\" has no unit");
  refused("0:40", "\"40\" has no unit");
  refused("forty", "is not a size");
  refused("0:-1GB", "negative");
  refused("40GB,0:40GB", "sizes with and without a device's name");
  refused("0:1GB,cuda:0:1GB", "cuda:0 stands in it twice");
  refused("cpu:1GB,cpu:1GB", "cpu stands in it twice");
  refused("gpu0:1GB", "\"gpu0\" is no device");
  refused("1GB,,1GB", "is not a size");
  refused("{\"0\": true}", "where a size is expected");
  refused("{\"0\": -5}", "where a size is expected");
  refused("{\"0\"", "--max-memory");
}

TEST_CASE("any text is a budget or an Error") {
  const std::string seeds[] = {R"({"cuda:0": "10GB", "1": 1000})", "0:60GB,1:40GB,cpu:200GB", "75GiB,1e3MB"};
  for (const std::string& seed : seeds) {
    for (std::size_t at = 0; at < seed.size(); ++at) {
      for (int value = 0; value < 256; ++value) {
        std::string changed = seed;
        changed[at] = static_cast<char>(value);
        for (const std::string& given : {changed, changed.substr(0, at), changed.substr(at)}) {
          try {
            parse_max_memory(given);
          } catch (const Error& error) {
            CHECK(error.kind() == ErrorKind::usage);
          }
        }
      }
    }
  }
}

}  // namespace layerprobe::placement
