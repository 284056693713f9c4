#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "store/measures.h"
#include "store/reader.h"

namespace layerprobe::test {

/// Everything that "bit-identical, as read" covers.
inline void check_same_capture(const std::filesystem::path& one, const std::filesystem::path& other) {
  const store::Reader a(one), b(other);
  CHECK(a.prompts().input_ids == b.prompts().input_ids);
  CHECK(a.prompts().cu_seqlens == b.prompts().cu_seqlens);
  CHECK(a.prompts().texts == b.prompts().texts);
  CHECK(a.rows().cu_rows == b.rows().cu_rows);
  CHECK(a.rows().position == b.rows().position);
  REQUIRE(a.points().size() == b.points().size());
  for (std::size_t point = 0; point < a.points().size(); ++point) {
    CAPTURE(point);
    CHECK(a.points()[point].point == b.points()[point].point);
    REQUIRE(a.points()[point].stored == b.points()[point].stored);
    for (std::int64_t prompt = 0; prompt < a.prompts().num_prompts(); ++prompt) {
      CHECK(a.is_complete(point, prompt) == b.is_complete(point, prompt));
    }
    for (const store::Measure& measure : store::kMeasures) {
      CHECK(measure.bits_of(a.statistics(point)) == measure.bits_of(b.statistics(point)));
    }
    if (!a.points()[point].stored) continue;
    const ProbePoint& described = a.points()[point].point;
    const std::int64_t rows = a.rows().num_rows();
    std::vector<std::byte> of_a(static_cast<std::size_t>(rows * described.width) * size_of(described.dtype)),
        of_b = of_a;
    a.read_rows(point, 0, rows, of_a);
    b.read_rows(point, 0, rows, of_b);
    CHECK(of_a == of_b);
  }
  const store::Reader::TopK top_a = a.top_k(), top_b = b.top_k();
  CHECK(top_a.ids == top_b.ids);
  CHECK(top_a.logits == top_b.logits);
  CHECK(top_a.texts == top_b.texts);
}

}  // namespace layerprobe::test
