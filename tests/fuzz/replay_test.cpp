// Every seed of the fuzz targets, and everything that scripts/fuzz ever found, goes through its reader once.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "tests/fuzz/hdf5_blocks.h"
#include "tests/fuzz/targets.h"
#include "tests/support/places.h"

namespace layerprobe {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = test::root_folder() / "tests/fuzz";

std::string contents_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("no seed and nothing that was ever found by fuzzing breaks its reader") {
  for (const fuzz::Target& target : fuzz::targets()) {
    std::set<fs::path> inputs;
    for (const char* folder : {"seeds", "found"}) {
      if (!fs::exists(kFolder / folder / target.name)) continue;
      for (const auto& entry : fs::directory_iterator(kFolder / folder / target.name)) inputs.insert(entry.path());
    }
    CAPTURE(target.name);
    CHECK(inputs.size() >= 2);
    for (const fs::path& path : inputs) {
      CAPTURE(path.filename());
      CHECK_NOTHROW(target.run(contents_of(path)));
    }
  }
}

TEST_CASE("the metadata of a captured run is found by its checksums") {
  std::string file = contents_of(kFolder / "seeds/captured_run/whole.h5");
  const std::vector<fuzz::Hdf5Block> blocks = fuzz::hdf5_blocks_of(file);
  CHECK(blocks.size() > 20);
  for (const fuzz::Hdf5Block& block : blocks) {
    file[block.begin + 5] ^= 1;
    fuzz::set_checksum(file, block);
  }
  CHECK(fuzz::hdf5_blocks_of(file).size() < blocks.size());
}

}  // namespace layerprobe
