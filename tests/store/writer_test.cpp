#include "store/writer.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <span>
#include <thread>

#include "base/error.h"
#include "store/measures.h"
#include "tests/store/sample.h"
#include "tests/support/same_capture.h"

namespace layerprobe {

using store::Layout;
using store::Reader;
using store::Writer;

TEST_CASE("a run of every dtype is read back as it was written") {
  const test::TempFolder folder;
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
  const test::TempFolder folder;
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
    test::check_same_capture(folder / "undisturbed.h5", path);
  }
}

TEST_CASE("statistics and top-k of an earlier run are there when it is resumed") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  {
    Writer writer(folder / "a.h5", layout, Writer::IfExists::refuse);
    CHECK(writer.resumed_bytes() == 0);
    test::write_prompt(writer, layout, 1);
    writer.commit();
    CHECK_FALSE(writer.is_complete(0, 1));  // it says what an earlier run left
  }
  const Writer writer(folder / "a.h5", layout, Writer::IfExists::resume);
  CHECK(writer.resumed_bytes() == 12 + 8 + 12 + 20 + 2400);  // one row of each stored point
  CHECK(writer.is_complete(0, 1));
  CHECK_FALSE(writer.is_complete(0, 0));
  CHECK(writer.statistics()[3].sum == test::sample_statistics(layout, 3, 1).sum);
  CHECK(writer.statistics()[3].abs_max_row == 3);  // the only token of prompt 1 is the fourth of all
  CHECK(writer.top_k_ids() == std::vector<std::int32_t>{0, 0, 0, 0, 102, 152, 0, 0});
  std::vector<std::byte> rows(20);
  writer.read_rows(4, 2, rows);
  CHECK(rows == test::sample_rows(layout, 4, 2, 1));
}

TEST_CASE("how many rows chose each expert follows from the rows, resumed or not") {
  const test::TempFolder folder;
  const Layout layout = {
      .points = {{.point = {.name = "model.layers.0", .dtype = Dtype::f32, .width = 1}},
                 {.point = {.name = "model.layers.1.mlp:topk_indices", .dtype = Dtype::i32, .width = 2}}},
      .prompts = {.input_ids = {1, 2, 3}, .cu_seqlens = {0, 2, 3}, .texts = {}},
      .rows = {.cu_rows = {0, 2, 3}, .position = {0, 1, 0}},
      .num_experts = 5,
      .identity = {},
      .information = {}};
  const auto write = [&](Writer& writer, std::int64_t prompt, const std::vector<std::int32_t>& experts) {
    const std::int64_t first_row = layout.rows.cu_rows[static_cast<std::size_t>(prompt)];
    const std::vector<float> values(experts.size() / 2, 1.0f);
    writer.write_rows(0, first_row, std::as_bytes(std::span(values)));
    writer.write_rows(1, first_row, std::as_bytes(std::span(experts)));
    for (std::size_t point = 0; point < 2; ++point) {
      writer.write_statistics(point, prompt, {});
      writer.mark_complete(point, prompt);
    }
  };
  {
    Writer writer(folder / "a.h5", layout, Writer::IfExists::refuse);
    write(writer, 0, {4, 0, 4, 3});
    writer.commit();
  }
  CHECK(Reader(folder / "a.h5.partial").expert_counts(1).empty());
  {
    Writer writer(folder / "a.h5", layout, Writer::IfExists::resume);
    write(writer, 1, {0, 4});
    writer.finish({});
  }
  const Reader reader(folder / "a.h5");
  CHECK(reader.expert_counts(0).empty());
  CHECK(reader.expert_counts(1) == std::vector<std::int64_t>{2, 0, 0, 1, 3});

  std::string bytes = test::read_all(folder / "a.h5");
  const std::int64_t counts[] = {2, 0, 0, 1, 3};
  const std::size_t place = bytes.find(std::string(reinterpret_cast<const char*>(counts), sizeof counts));
  REQUIRE(place != std::string::npos);
  bytes[place] = 4;  // of three rows
  test::write_all(folder / "a.h5", bytes);
  CHECK_THROWS_WITH_AS(Reader(folder / "a.h5").expert_counts(1),
                       doctest::Contains("says that 4 of 3 rows chose an expert"), Error);

  Writer writer(folder / "b.h5", layout, Writer::IfExists::refuse);
  write(writer, 0, {4, 0, 5, 3});
  write(writer, 1, {0, 4});
  CHECK_THROWS_WITH_AS(writer.finish({}), doctest::Contains("names expert 5 where there are 5"), Error);

  Layout without = layout;  // as files were before there were counts
  without.num_experts = 0;
  Writer old(folder / "c.h5", without, Writer::IfExists::refuse);
  write(old, 0, {4, 0, 4, 3});
  write(old, 1, {0, 4});
  old.finish({});
  CHECK(Reader(folder / "c.h5").expert_counts(1).empty());
}

TEST_CASE("what was not yet written reads as zeros") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  const Writer writer(folder / "a.h5", layout, Writer::IfExists::refuse);
  std::vector<std::byte> rows(4 * 2400, std::byte{1});
  writer.read_rows(5, 0, rows);
  CHECK(rows == std::vector<std::byte>(4 * 2400));
  const Reader reader(folder / "a.h5.partial");
  CHECK_FALSE(reader.is_complete(0, 0));
  CHECK(reader.complete_bytes() == 0);
  CHECK(reader.statistics(0).count == 0);
}

TEST_CASE("a file that exists is not touched unless the caller says so") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  { const Writer writer(folder / "a.h5", layout, Writer::IfExists::refuse); }
  const auto refuse = [&] { return Writer(folder / "a.h5", layout, Writer::IfExists::refuse); };
  CHECK_THROWS_WITH_AS(refuse(), doctest::Contains("a.h5.partial: holds a run that did not finish\n  help: --resume"),
                       Error);
  std::filesystem::remove(folder / "a.h5.partial");
  test::write_all(folder / "a.h5", "precious");
  CHECK_THROWS_WITH_AS(refuse(), doctest::Contains("a.h5: exists already\n  help: --overwrite replaces it"), Error);
  CHECK(test::read_all(folder / "a.h5") == "precious");
  std::filesystem::remove(folder / "a.h5");
  std::filesystem::create_directory(folder / "a.h5");
  CHECK_THROWS_WITH_AS(Writer(folder / "a.h5", layout, Writer::IfExists::overwrite),
                       doctest::Contains("a.h5: is no regular file"), Error);
  CHECK_THROWS_WITH_AS(Writer(folder / "nowhere/a.h5", layout, Writer::IfExists::refuse),
                       doctest::Contains("a.h5: is in a folder that does not exist"), Error);
}

TEST_CASE("overwriting keeps the finished file until the new one is finished") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  test::write_all(folder / "a.h5", "precious");
  test::write_all(folder / "a.h5.partial", "not precious");
  {
    Writer writer(folder / "a.h5", layout, Writer::IfExists::overwrite);
    CHECK(test::read_all(folder / "a.h5") == "precious");
    CHECK_FALSE(Reader(folder / "a.h5.partial").is_finished());
    for (std::int64_t prompt = 0; prompt < 3; ++prompt) test::write_prompt(writer, layout, prompt);
    CHECK(test::read_all(folder / "a.h5") == "precious");
    test::write_texts_and_finish(writer);
  }
  CHECK(Reader(folder / "a.h5").is_finished());
  CHECK_FALSE(std::filesystem::exists(folder / "a.h5.partial"));
}

TEST_CASE("resuming a finished run says so, also where only its last rename is missing") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  test::write_run(folder / "a.h5", layout);
  const std::string whole = test::read_all(folder / "a.h5");
  CHECK(Writer(folder / "a.h5", layout, Writer::IfExists::resume).is_finished());
  std::filesystem::rename(folder / "a.h5", folder / "a.h5.partial");
  CHECK(Writer(folder / "a.h5", layout, Writer::IfExists::resume).is_finished());
  CHECK_FALSE(std::filesystem::exists(folder / "a.h5.partial"));
  CHECK(test::read_all(folder / "a.h5") == whole);

  { const Writer partial(folder / "b.h5", layout, Writer::IfExists::resume); }
  std::filesystem::rename(folder / "b.h5.partial", folder / "b.h5");
  CHECK_THROWS_WITH_AS(Writer(folder / "b.h5", layout, Writer::IfExists::resume),
                       doctest::Contains("b.h5: holds a run that did not finish, under the name of one that did"),
                       Error);
}

TEST_CASE("a run is resumed only as the same run, and the first difference is named with both values") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  const auto check = [&](const char* difference, auto change) {
    CAPTURE(difference);
    Layout other = test::sample_layout();
    change(other);
    for (const char* name : {"partial.h5", "finished.h5"}) {
      CAPTURE(name);
      CHECK_THROWS_WITH_AS(Writer(folder / name, other, Writer::IfExists::resume),
                           doctest::Contains(text("is of another run: ", difference).c_str()), Error);
    }
  };
  { const Writer writer(folder / "partial.h5", layout, Writer::IfExists::refuse); }
  test::write_run(folder / "finished.h5", layout);
  const std::string before = test::read_all(folder / "partial.h5.partial");

  check("model_hash is \"abc\" there and \"abd\" in this run", [](Layout& l) { l.identity["model_hash"] = "abd"; });
  check("seed is 7 there and 8 in this run", [](Layout& l) { l.identity["seed"] = std::int64_t{8}; });
  check("scale is 0.5 there and \"0.5\" in this run", [](Layout& l) { l.identity["scale"] = "0.5"; });
  check("backend is not given there and \"cpu\" in this run", [](Layout& l) { l.identity["backend"] = "cpu"; });
  check("captured point 2 is model.layers.0 (float16, 6 wide) there and model.layers.0 (bfloat16, 6 wide) in this run",
        [](Layout& l) { l.points[2].point.dtype = Dtype::bf16; });
  check(
      "captured point 3 is model.layers.1 (bfloat16, 600 wide, statistics only) there and model.layers.1 (bfloat16, "
      "600 wide) in this run",
      [](Layout& l) { l.points[3].stored = true; });
  check("captured point 4 is model.norm (float32, 5 wide) there and lm_head (float64, 300 wide) in this run",
        [](Layout& l) { l.points.erase(l.points.begin() + 4); });
  check("captured point 6 is no more there and more (bfloat16, 1 wide) in this run",
        [](Layout& l) { l.points.push_back({.point = {.name = "more", .dtype = Dtype::bf16, .width = 1}}); });
  check("the number of prompts is 3 there and 2 in this run", [](Layout& l) {
    l.prompts = {.input_ids = {11, 12, 13, 14}, .cu_seqlens = {0, 3, 4}, .texts = {}};
    l.rows = {.cu_rows = {0, 2, 3}, .position = {0, 2, 0}};
  });
  check("the number of tokens of prompt 0 is 3 there and 2 in this run",
        [](Layout& l) { l.prompts.cu_seqlens[1] = 2; });
  check("token 1 of prompt 2 is 16 there and 17 in this run", [](Layout& l) { l.prompts.input_ids[5] = 17; });
  check("the number of token ids is 6 there and 0 in this run", [](Layout& l) { l.prompts.input_ids.clear(); });
  check("the text of prompt 1 is \"\" there and \"x\" in this run", [](Layout& l) { l.prompts.texts[1] = "x"; });
  check("the number of captured tokens of prompt 0 is 2 there and 1 in this run",
        [](Layout& l) { l.rows.cu_rows[1] = 1; });
  check("captured token 1 of prompt 0 is 2 there and 1 in this run", [](Layout& l) { l.rows.position[1] = 1; });
  check("the number of ranked tokens (top k) is 2 there and 3 in this run", [](Layout& l) { l.top_k = 3; });
  CHECK(test::read_all(folder / "partial.h5.partial") == before);

  Layout elsewhere = layout;
  elsewhere.information["command_line"] = "another";  // may differ
  CHECK_FALSE(Writer(folder / "partial.h5", elsewhere, Writer::IfExists::resume).is_finished());
}

TEST_CASE("a damaged partial file is not continued, and stays as it is") {
  const test::TempFolder folder;
  test::write_all(folder / "a.h5.partial", "no HDF5");
  CHECK_THROWS_WITH_AS(Writer(folder / "a.h5", test::sample_layout(), Writer::IfExists::resume),
                       doctest::Contains("a.h5.partial: is no HDF5 file"), Error);
  CHECK(test::read_all(folder / "a.h5.partial") == "no HDF5");
}

TEST_CASE("two runs do not write one file") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  const Writer first(folder / "a.h5", layout, Writer::IfExists::refuse);
  for (const Writer::IfExists if_exists : {Writer::IfExists::resume, Writer::IfExists::overwrite}) {
    CHECK_THROWS_WITH_AS(Writer(folder / "a.h5", layout, if_exists),
                         doctest::Contains("a.h5.partial: another run is writing it"), Error);
    CHECK_FALSE(std::filesystem::exists(folder / ".a.h5.partial.new"));
  }
  CHECK_FALSE(Reader(folder / "a.h5.partial").is_finished());  // reading is no harm
}

TEST_CASE("what a crash left before the file was valid is used again") {
  const test::TempFolder folder;
  test::write_all(folder / ".a.h5.partial.new", std::string(1000000, 'x'));
  test::write_run(folder / "a.h5", test::sample_layout());
  CHECK(Reader(folder / "a.h5").is_finished());
  CHECK_FALSE(std::filesystem::exists(folder / ".a.h5.partial.new"));
}

TEST_CASE("a file that the disk cannot hold is refused with both sizes, before anything is made") {
  const test::TempFolder folder;
  Layout layout = test::sample_layout();
  layout.points[0].point.width = std::int64_t{1} << 50;  // 4 rows of bf16
  CHECK_THROWS_WITH_AS(Writer(folder / "a.h5", layout, Writer::IfExists::refuse), doctest::Contains("a.h5: takes 9.01"),
                       Error);
  layout.points[0].point.width = INT64_MAX;
  CHECK(store::planned_bytes(layout) == UINT64_MAX);
  CHECK_THROWS_WITH_AS(Writer(folder / "a.h5", layout, Writer::IfExists::refuse),
                       doctest::Contains("free\n  help: make space"), Error);
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("planned_bytes is at least what the file takes, and not much more") {
  const test::TempFolder folder;
  Layout layout = test::sample_layout();
  for (int i = 0; i < 300; ++i) {
    layout.points.push_back(
        {.point = {.name = text("model.layers.", i, ".self_attn"), .dtype = Dtype::bf16, .width = 700}});
    layout.identity[text("attribute_", i)] = std::string(static_cast<std::size_t>(i), 'x');
  }
  layout.information["long"] = std::string(200000, 'y');  // more than HDF5 keeps in an object's header
  test::write_run(folder / "a.h5", layout);
  const std::uint64_t size = std::filesystem::file_size(folder / "a.h5");
  CHECK(store::planned_bytes(layout) >= size);
  CHECK(store::planned_bytes(layout) <= size + 4000000);
  CHECK(Reader(folder / "a.h5").attributes().at("long") == layout.information["long"]);
}

TEST_CASE("input without token ids or texts, prompts without rows and means are kept") {
  const test::TempFolder folder;
  const Layout hidden_states = {.points = {{.point = {.name = "model.layers.0", .dtype = Dtype::f32, .width = 3}}},
                                .prompts = {.input_ids = {}, .cu_seqlens = {0, 2, 5}, .texts = {}},
                                .rows = {.cu_rows = {0, 1, 1}, .position = {-1}},
                                .identity = {},
                                .information = {}};
  {
    Writer writer(folder / "a.h5", hidden_states, Writer::IfExists::refuse);
    writer.write_rows(0, 0, std::vector<std::byte>(12, std::byte{7}));
    writer.mark_complete(0, 0);
    writer.mark_complete(0, 1);
    writer.finish({});
  }
  const Reader reader(folder / "a.h5");
  CHECK(reader.is_finished());
  CHECK(reader.prompts().input_ids.empty());
  CHECK(reader.prompts().num_tokens() == 5);
  CHECK(reader.rows().position == std::vector<std::int32_t>{-1});
  std::vector<std::byte> row(12);
  reader.read_rows(0, 0, 1, row);
  CHECK(row == std::vector<std::byte>(12, std::byte{7}));
}

TEST_CASE("a long token's text is cut at the end of a character") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  std::string umlauts = "x";
  for (int i = 0; i < 200; ++i) umlauts += "\xc3\xbc";
  {
    Writer writer(folder / "a.h5", layout, Writer::IfExists::refuse);
    for (std::int64_t prompt = 0; prompt < 3; ++prompt) test::write_prompt(writer, layout, prompt);
    writer.write_top_k_texts(std::vector<std::string>(8, umlauts));
    writer.finish({});
  }
  const Reader::TopK top_k = Reader(folder / "a.h5").top_k();
  for (const std::string& text : top_k.texts) CHECK(text == umlauts.substr(0, 255));
}

TEST_CASE("a run that is not complete cannot be finished") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  Writer writer(folder / "a.h5", layout, Writer::IfExists::refuse);
  test::write_prompt(writer, layout, 0);
  CHECK_THROWS_WITH_AS(writer.finish({}), doctest::Contains("a run that finishes is complete"), Error);
  CHECK_FALSE(std::filesystem::exists(folder / "a.h5"));
}

TEST_CASE("statistics that the prompt's rows cannot have are our own mistake, told at once") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  Writer writer(folder / "a.h5", layout, Writer::IfExists::refuse);
  Statistics statistics = test::sample_statistics(layout, 0, 2);
  statistics.abs_max_row = 1;  // prompt 2 has one captured row
  CHECK_THROWS_WITH_AS(writer.write_statistics(0, 2, statistics), doctest::Contains("counted from its first"), Error);
  writer.write_statistics(3, 2, statistics);  // and two tokens
}

TEST_CASE("a run that is killed again and again ends as an undisturbed run does") {
  const test::TempFolder folder;
  const Layout layout = test::sample_layout();
  const auto begin = std::chrono::steady_clock::now();
  test::write_run(folder / "undisturbed.h5", layout);
  const std::chrono::duration<double, std::micro> whole_run = std::chrono::steady_clock::now() - begin;
  const auto run = [&] {
    Writer writer(folder / "a.h5", layout, Writer::IfExists::resume);
    if (writer.is_finished()) return;
    for (std::int64_t prompt = 0; prompt < 3; ++prompt) {
      if (!writer.is_complete(5, prompt)) test::write_prompt(writer, layout, prompt);
      writer.commit();
    }
    test::write_texts_and_finish(writer);
  };
  for (int kill = 0; kill < 40; ++kill) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      run();
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(whole_run.count() * (kill % 8) / 7));  // from its first moment to its last
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    if (kill % 8 != 7) continue;
    run();
    test::check_same_capture(folder / "undisturbed.h5", folder / "a.h5");
    std::filesystem::remove(folder / "a.h5");
  }
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);  // nothing else is left behind
}

TEST_CASE("many threads write at once, and what they mark before a commit is complete after it") {
  constexpr std::int64_t kPrompts = 64;
  Layout layout;
  for (const std::int64_t width : {16, 16, 16, 16, 1024, 16384, 20001, 33333}) {  // whole pages or not, small and large
    layout.points.push_back(
        {.point = {.name = text("point ", layout.points.size()), .dtype = Dtype::f32, .width = width}});
  }
  layout.prompts.cu_seqlens = layout.rows.cu_rows = {0};
  for (std::int32_t p = 1; p <= kPrompts; ++p) {
    layout.prompts.cu_seqlens.push_back(p);
    layout.rows.cu_rows.push_back(p);
    layout.rows.position.push_back(0);
  }
  for (const auto& parent : {std::filesystem::temp_directory_path(), test::memory_folder()}) {
    CAPTURE(parent.string());
    const test::TempFolder folder(parent);
    {
      Writer writer(folder / "a.h5", layout, Writer::IfExists::refuse);
      std::vector<std::thread> threads;
      for (std::int64_t first = 0; first < 4; ++first) {  // each its rows of every point
        threads.emplace_back([&, first] {
          for (std::int64_t prompt = first; prompt < kPrompts; prompt += 4) {
            for (std::size_t point = 0; point < layout.points.size(); ++point) {
              const std::vector<std::byte> rows = test::sample_rows(layout, point, prompt, 1);
              writer.write_rows(point, prompt, rows);
              std::vector<std::byte> found(rows.size());
              writer.read_rows(point, prompt, found);
              if (found != rows) return;  // found below, where checks can be made
              writer.write_statistics(point, prompt, test::sample_statistics(layout, point, prompt));
              writer.mark_complete(point, prompt);
            }
          }
        });
      }
      for (int i = 0; i < 5; ++i) writer.commit();
      for (std::thread& thread : threads) thread.join();
      writer.finish({});
    }
    const Reader reader(folder / "a.h5");
    for (std::size_t point = 0; point < layout.points.size(); ++point) {
      const std::vector<std::byte> expected = test::sample_rows(layout, point, 0, kPrompts);
      std::vector<std::byte> rows(expected.size());
      reader.read_rows(point, 0, kPrompts, rows);
      CHECK(rows == expected);
      CHECK(reader.statistics(point).count == kPrompts * layout.points[point].point.width);
    }
  }
}

}  // namespace layerprobe
