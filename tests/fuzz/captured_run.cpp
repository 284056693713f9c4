#include <cstddef>
#include <vector>

#include "compare/compare.h"
#include "store/reader.h"
#include "tests/fuzz/targets.h"

namespace layerprobe::fuzz {

void captured_run(std::string_view bytes) {
  const MemoryFile in_memory(bytes);
  expect_answer([&] {
    const store::Reader reader(in_memory.path());
    reader.top_k();
    reader.complete_bytes();
    compare::compare_runs(reader, reader, {}, {});
  });
}

}  // namespace layerprobe::fuzz
