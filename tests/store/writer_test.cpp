#include "store/writer.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "store/measures.h"
#include "tests/store/sample.h"

namespace layerprobe {

using store::Layout;
using store::Reader;
using store::Writer;

namespace {

/// Everything that "bit-identical, as read" covers.
void check_same(const Reader& a, const Reader& b) {
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
}

}  // namespace

TEST_CASE("a run of every dtype is read back as it was written") {
  const test::TemporaryFolder folder;
  const Layout layout = test::sample_layout();
  test::write_run(folder / "a.h5", layout);
  CHECK_FALSE(std::filesystem::exists(folder / "a.h5.partial"));
  CHECK_FALSE(std::filesystem::exists(folder / ".a.h5.partial.new"));

  const Reader reader(folder / "a.h5");
  CHECK(reader.is_finished());
  CHECK(reader.prompts().texts == layout.prompts.texts);
  CHECK(reader.prompts().input_ids == layout.prompts.input_ids);
  CHECK(reader.rows().position == layout.rows.position);
  CHECK(reader.complete_bytes() == reader.capture_bytes());
  REQUIRE(reader.points().size() == layout.points.size());
  for (std::size_t point = 0; point < layout.points.size(); ++point) {
    CAPTURE(point);
    CHECK(reader.points()[point].point == layout.points[point].point);
    CHECK(reader.find(layout.points[point].point.name) == point);
    Statistics expected;
    for (std::int64_t prompt = 0; prompt < 3; ++prompt) {
      CHECK(reader.is_complete(point, prompt));
      const auto& cu = layout.points[point].stored ? layout.rows.cu_rows : layout.prompts.cu_seqlens;
      expected.append(test::sample_statistics(layout, point, prompt), cu[static_cast<std::size_t>(prompt)]);
    }
    for (const store::Measure& measure : store::kMeasures) {
      CAPTURE(measure.name);
      CHECK(measure.bits_of(reader.statistics(point)) == measure.bits_of(expected));
    }
    if (!layout.points[point].stored) continue;
    const std::vector<std::byte> rows = test::sample_rows(layout, point, 1, 3);
    std::vector<std::byte> found(rows.size());
    reader.read_rows(point, 1, 3, found);
    CHECK(found == rows);
  }
  CHECK_FALSE(reader.find("model.layers.9"));
  const store::Attributes& attributes = reader.attributes();
  CHECK(attributes.at("model_hash") == store::Attribute{"abc"});
  CHECK(attributes.at("seed") == store::Attribute{std::int64_t{7}});
  CHECK(attributes.at("scale") == store::Attribute{0.5});
  CHECK(attributes.at("empty") == store::Attribute{""});
  CHECK(attributes.at("format_version") == store::Attribute{std::int64_t{1}});
  CHECK(attributes.at("end_time") == store::Attribute{"2026-01-01T00:00:00Z"});
  CHECK(attributes.at("elapsed_seconds") == store::Attribute{2.0});
  CHECK(attributes.at("num_batches") == store::Attribute{std::int64_t{3}});
  const Reader::TopK top_k = reader.top_k();
  CHECK(top_k.k == 2);
  CHECK(top_k.ids == std::vector<std::int32_t>{100, 150, 101, 151, 102, 152, 103, 153});
  CHECK(top_k.logits[1] == 1.5f);
  CHECK(top_k.texts[7] == "<153>");
}

TEST_CASE("a run that stops half-way and is resumed gives what an undisturbed run gives") {
  const test::TemporaryFolder folder;
  const Layout layout = test::sample_layout();
  test::write_run(folder / "undisturbed.h5", layout);
  for (const std::int64_t stops_after : {0, 1, 2, 3}) {
    CAPTURE(stops_after);
    const std::filesystem::path path = folder / text("stopped", stops_after, ".h5").c_str();
    {
      Writer writer(path, layout, Writer::IfExists::resume);
      for (std::int64_t prompt = 0; prompt < stops_after; ++prompt) test::write_prompt(writer, layout, prompt);
      writer.commit();
      if (stops_after < 3) {  // written but never committed: done again
        writer.write_rows(0, 3, std::vector<std::byte>(12, std::byte{0xff}));
        writer.mark_complete(0, 2);
      }
    }
    {
      const Reader partial(path.string() + ".partial");
      CHECK_FALSE(partial.is_finished());
      CHECK(partial.is_complete(4, 0) == (stops_after > 0));
      CHECK(partial.complete_bytes() == (stops_after == 3 ? partial.capture_bytes() : partial.complete_bytes()));
    }
    Writer writer(path, layout, Writer::IfExists::resume);
    CHECK_FALSE(writer.is_finished());
    for (std::int64_t prompt = 0; prompt < 3; ++prompt) {
      CHECK(writer.is_complete(3, prompt) == (prompt < stops_after));
      if (!writer.is_complete(3, prompt)) test::write_prompt(writer, layout, prompt);
    }
    test::write_texts_and_finish(writer);
    check_same(Reader(folder / "undisturbed.h5"), Reader(path));
  }
}

}  // namespace layerprobe
