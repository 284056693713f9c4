#include "weights/safetensors.h"

#include <cstddef>
#include <vector>

#include "tests/fuzz/targets.h"
#include "weights/read_values.h"

namespace layerprobe::fuzz {

void safetensors(std::string_view bytes) {
  const MemoryFile in_memory(bytes);
  expect_answer([&] {
    const File file = File::open_for_reading(in_memory.path());
    for (const weights::TensorInfo& tensor : weights::read_safetensors_header(file, 0)) {
      expect_answer([&] {
        std::vector<std::byte> values(static_cast<std::size_t>(tensor.num_elements()) * size_of(Dtype::f64));
        weights::read_values(file, tensor, Dtype::f64, values.data());
      });
    }
  });
}

}  // namespace layerprobe::fuzz
