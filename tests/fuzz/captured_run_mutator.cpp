// HDF5's metadata has checksums: what libFuzzer changes in it gets a right one again, so that the change is read.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>

#include "tests/fuzz/hdf5_blocks.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* bytes, std::size_t size, std::size_t max_size);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* bytes, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  using namespace layerprobe::fuzz;
  std::minstd_rand random(seed);
  std::string file(reinterpret_cast<const char*>(bytes), size);
  const std::vector<Hdf5Block> blocks = hdf5_blocks_of(file);
  if (blocks.empty() || random() % 4 == 0)
    return LLVMFuzzerMutate(bytes, size, max_size);  // values, and the file's end
  for (auto times = 1 + random() % 3; times > 0; --times) {
    const Hdf5Block& block = blocks[random() % blocks.size()];
    const std::size_t begin = block.begin + random() % (block.end - block.begin);
    const std::size_t length = 1 + random() % std::min<std::size_t>(32, block.end - begin);
    LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(file.data()) + begin, length, length);
    set_checksum(file, block);
  }
  std::memcpy(bytes, file.data(), size);
  return size;
}
