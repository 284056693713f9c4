#include "device/backends.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe {

TEST_CASE("the host's processors are a device") {
  CHECK(device::open_device("cpu")->name() == "cpu");
  CHECK(device::open_device("cpu:0")->name() == "cpu");
  CHECK(device::open_device("cpu")->free_bytes() > 1'000'000);
}

TEST_CASE("a device that is none is refused by its name") {
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:0x", "cuda:-1", "cuda:99999999999", ""}) {
    CHECK_THROWS_WITH_AS(device::open_device(name), doctest::Contains(text("\"", name, "\" is no device").c_str()),
                         Error);
  }
}

TEST_CASE("a GPU that is not there is refused with what there is") {
  const std::size_t count = device::gpus().size();
  const std::string name = text("cuda:", count);
  std::string message;
  try {
    device::open_device(name);
  } catch (const Error& error) {
    message = error.what();
  }
  CAPTURE(message);
  CHECK(message.find("help: ") != message.npos);
  if (count == 1) CHECK(message.find("cuda:1: there is 1 GPU") != message.npos);
  if (count == 0) CHECK(message.find("cpu") != message.npos);  // no driver, or no CUDA in this program
}

TEST_CASE("each GPU opens under its name and has memory") {
  for (const device::DeviceInfo& gpu : device::gpus()) {
    if (!gpu.is_supported) continue;
    const auto ops = device::open_device(gpu.name, {.cache_folder = {}});
    CHECK(ops->name() == gpu.name);
    CHECK(ops->code_path().find(gpu.model) != std::string::npos);
    CHECK(ops->free_bytes() <= gpu.total_bytes);
    bool has_less = false;  // other programs on the GPU may give back more than this takes, but not each time
    for (int i = 0; i < 20 && !has_less; ++i) {
      const std::uint64_t before = ops->free_bytes();
      const device::Buffer buffer = ops->allocate(std::size_t{256} << 20);
      has_less = ops->free_bytes() < before;
    }
    CHECK(has_less);
  }
}

}  // namespace layerprobe
