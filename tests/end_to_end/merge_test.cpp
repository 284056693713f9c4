// Shards of a run, put together, are what one run would have made.
#include "runtime/merge.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "runtime/session.h"
#include "tests/store/sample.h"
#include "tests/support/places.h"
#include "tests/support/process.h"
#include "tests/support/same_capture.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

using store::Layout;
using store::Reader;
using store::Writer;
using Paths = std::vector<std::filesystem::path>;

void check_same_statistics_of_prompts(const std::filesystem::path& one, const std::filesystem::path& other) {
  const Reader a(one), b(other);
  for (std::size_t point = 0; point < a.points().size(); ++point) {
    const std::vector<Statistics> of_a = a.statistics_of_prompts(point), of_b = b.statistics_of_prompts(point);
    REQUIRE(of_a.size() == of_b.size());
    for (std::size_t prompt = 0; prompt < of_a.size(); ++prompt) {
      for (const store::Measure& measure : store::kMeasures) {
        CHECK(measure.bits_of(of_a[prompt]) == measure.bits_of(of_b[prompt]));
      }
    }
  }
}

/// A run of the sample's three prompts that a layerprobe could have made.
Layout whole_layout() {
  Layout layout = test::sample_layout();
  layout.identity.clear();
  for (const char* name : runtime::kIdentity) layout.identity[name] = text("some ", name);
  layout.information = {{"start_time", "2026-01-02T00:00:00Z"}, {"command_line", "layerprobe"}};
  return layout;
}

/// The part of it that a shard has; `change` may spoil it.
Layout shard_layout(std::int64_t index, std::int64_t count, const std::function<void(Layout&)>& change = nullptr) {
  Layout layout = whole_layout();
  const runtime::Part part = runtime::part_of({.index = index, .count = count}, 3, "hash of all");
  const auto rows = std::pair(layout.rows.cu_rows[static_cast<std::size_t>(part.first_prompt)],
                              layout.rows.cu_rows[static_cast<std::size_t>(part.first_prompt + part.num_prompts)]);
  layout.prompts = runtime::slice(layout.prompts, part.first_prompt, part.num_prompts);
  layout.rows.position = {layout.rows.position.begin() + rows.first, layout.rows.position.begin() + rows.second};
  layout.rows.cu_rows = {layout.rows.cu_rows.begin() + part.first_prompt,
                         layout.rows.cu_rows.begin() + part.first_prompt + part.num_prompts + 1};
  for (std::int64_t& bound : layout.rows.cu_rows) bound -= rows.first;
  layout.identity.merge(part.attributes());
  layout.information["command_line"] = text("layerprobe --shard ", index, "/", count);
  if (change) change(layout);
  return layout;
}

/// Writes a shard with the values that test::write_run gives the whole.
std::filesystem::path write_shard(const std::filesystem::path& path, std::int64_t index, std::int64_t count,
                                  const std::function<void(Layout&)>& change = nullptr) {
  const Layout whole = whole_layout(), layout = shard_layout(index, count, change);
  const std::int64_t first_prompt = runtime::Shard{.index = index, .count = count}.begin(3);
  Writer writer(path, layout, Writer::IfExists::overwrite);
  const std::int64_t first_row = whole.rows.cu_rows[static_cast<std::size_t>(first_prompt)];
  std::vector<std::string> texts;
  for (std::size_t point = 0; point < layout.points.size(); ++point) {
    if (layout.points[point].stored) {
      writer.write_rows(point, 0, test::sample_rows(layout, point, first_row, layout.rows.num_rows()));
    }
    for (std::int64_t prompt = 0; prompt < layout.prompts.num_prompts(); ++prompt) {
      writer.write_statistics(point, prompt, test::sample_statistics(whole, point, first_prompt + prompt));
      writer.mark_complete(point, prompt);
    }
  }
  for (std::int64_t row = 0; row < layout.rows.num_rows(); ++row) {
    const auto id = static_cast<std::int32_t>(100 + first_row + row);
    writer.write_top_k(row, std::vector<std::int32_t>{id, id + 50}, std::vector<float>{2.5f, 1.5f});
    for (const int each : {id, id + 50}) texts.push_back(text("<", each, ">"));
  }
  writer.write_top_k_texts(texts);
  writer.finish({{"end_time", text("2026-01-0", 3 + first_prompt, "T00:00:00Z")}, {"run_seconds", 2.0}});
  return path;
}

runtime::MergeReport merge(const std::filesystem::path& output, const Paths& shards,
                           Writer::IfExists if_exists = Writer::IfExists::refuse,
                           const runtime::MergeWatch& watch = {}) {
  return runtime::merge({.output = output, .shards = shards, .if_exists = if_exists, .command_line = "merge"}, watch);
}

}  // namespace

TEST_CASE("shards of a run, merged, are the file of the undivided run") {
  const test::TempFolder model, out;
  test::write_tiny_model(model);
  runtime::RunOptions options;
  options.model = model.path().string();
  options.tokens_per_batch = 30;
  const auto full = [](const char* tokens) {
    return plan::Request{.test_type = plan::TestType::full, .tokens = tokens};
  };
  const std::vector<std::pair<runtime::InputOptions, plan::Request>> runs = {
      {{.random_tokens = "7x5:1"}, {.test_type = plan::TestType::extract_all, .capture = {"**"}}},
      {{.random_tokens = "7x5:1"}, full("last")},
      {{.random_tokens = "7x5:1"}, full("mean")},
      {{.random_tokens = "7x5:1"}, full("1:4:2")},
      {{.random_hidden_states = "7x5:3"}, {.test_type = plan::TestType::single, .layers = "1"}},
      {{.hidden_states_file = (out / "whole0.h5").string()}, {.test_type = plan::TestType::multi, .layers = "1-2"}},
  };
  for (std::size_t i = 0; i < runs.size(); ++i) {
    CAPTURE(i);
    options.input = runs[i].first;
    options.request = runs[i].second;
    options.shard.reset();
    options.if_exists = Writer::IfExists::refuse;
    options.output = (out / text("whole", i, ".h5").c_str()).string();
    const std::string whole = options.output;
    runtime::run(options, {});
    for (const std::int64_t count : {1, 2, 4}) {
      CAPTURE(count);
      Paths shards;
      for (std::int64_t index = count; index-- > 0;) {  // in another order than the prompts'
        options.shard = runtime::Shard{.index = index, .count = count};
        options.output = (out / text("run", i, "-", index, "-", count, ".h5").c_str()).string();
        const runtime::RunReport report = runtime::run(options, {});
        CHECK(report.part->first_prompt == 7 * index / count);
        shards.emplace_back(options.output);
      }
      const std::filesystem::path merged = out / text("merged", i, "-", count, ".h5").c_str();
      const runtime::MergeReport report = merge(merged, shards);
      CHECK(report.num_shards == count);
      CHECK(report.num_prompts == 7);
      test::check_same_capture(whole, merged);
      check_same_statistics_of_prompts(whole, merged);
      CHECK_FALSE(Reader(merged).attributes().contains("shard"));
      options.shard.reset();  // the undivided run takes it for its own
      options.output = merged.string();
      options.if_exists = Writer::IfExists::resume;
      CHECK(runtime::run(options, {}).was_finished);
      options.if_exists = Writer::IfExists::refuse;
    }
  }
}

TEST_CASE("every dtype, statistics alone, texts, ranks and their texts are merged; so is what was known at the end") {
  const test::TempFolder out;
  test::write_run(out / "whole.h5", whole_layout());
  const Paths shards = {write_shard(out / "b.h5", 1, 2), write_shard(out / "a.h5", 0, 2)};
  merge(out / "merged.h5", shards);
  test::check_same_capture(out / "whole.h5", out / "merged.h5");
  check_same_statistics_of_prompts(out / "whole.h5", out / "merged.h5");
  const store::Attributes attributes = Reader(out / "merged.h5").attributes();
  CHECK(attributes.at("model_hash") == store::Attribute{"some model_hash"});
  CHECK(attributes.at("start_time") == store::Attribute{"2026-01-02T00:00:00Z"});
  CHECK(attributes.at("end_time") == store::Attribute{"2026-01-04T00:00:00Z"});
  CHECK(attributes.at("run_seconds") == store::Attribute{4.0});
  CHECK(attributes.at("command_line") == store::Attribute{"layerprobe --shard 0/2; layerprobe --shard 1/2"});
  CHECK(attributes.at("merged_shards") == store::Attribute{std::int64_t{2}});
  CHECK(attributes.at("merge_command_line") == store::Attribute{"merge"});
}

TEST_CASE("shards of different counts are merged where each prompt is in one of them") {
  const test::TempFolder out;
  test::write_run(out / "whole.h5", whole_layout());
  const Paths shards = {write_shard(out / "a.h5", 0, 3), write_shard(out / "b.h5", 1, 2)};
  merge(out / "merged.h5", shards);
  test::check_same_capture(out / "whole.h5", out / "merged.h5");
}

TEST_CASE("shards that do not belong together are refused with the first difference, and nothing is made") {
  const test::TempFolder out;
  const auto shard = [&](const char* name, std::int64_t index, std::int64_t count,
                         const std::function<void(Layout&)>& change = nullptr) {
    return write_shard(out / name, index, count, change);
  };
  const auto refused = [&](const Paths& shards, const std::string& message) {
    CAPTURE(message);
    CHECK_THROWS_WITH_AS(merge(out / "merged.h5", shards), doctest::Contains(message.c_str()), Error);
    CHECK_FALSE(std::filesystem::exists(out / "merged.h5"));
    CHECK_FALSE(std::filesystem::exists(out / "merged.h5.partial"));
  };
  const auto path = [&](const char* name) { return (out / name).string(); };
  const std::filesystem::path first = shard("0.h5", 0, 3), second = shard("1.h5", 1, 3), third = shard("2.h5", 2, 3);

  refused({first, third}, path("0.h5") + ": prompt 1 of 3 is in no shard that was named\n  help: run --shard 1/3");
  refused({third}, path("2.h5") + ": prompts 0 to 1 of 3 are in no shard that was named");
  refused({first, second}, path("1.h5") + ": prompt 2 of 3 is in no shard that was named\n  help: run --shard 2/3");
  refused({first, second, third, second}, path("1.h5") + ": holds prompt 1 of 3, which " + path("1.h5") + " holds too");
  const std::filesystem::path half = shard("half.h5", 1, 2);
  refused({first, second, half}, path("half.h5") + ": holds prompt 1 of 3, which " + path("1.h5") + " holds too");

  for (const char* name : runtime::kIdentity) {
    const std::filesystem::path other = shard("other.h5", 1, 2, [&](Layout& l) { l.identity[name] = "another"; });
    refused({first, other}, text(path("other.h5"), ": is of another run than ", path("0.h5"), ": ", name,
                                 " is \"another\" where that has \"some ", name, "\""));
  }
  refused({first, shard("hash.h5", 1, 2, [](Layout& l) { l.identity[runtime::kShardWholeInput] = "of others"; })},
          "shard_whole_input is \"of others\" where that has \"hash of all\"");
  refused({first, shard("whole.h5", 1, 2, [](Layout& l) { l.identity[runtime::kShardWholePrompts] = 30; })},
          "shard_whole_prompts is 30 where that has 3");
  refused({first, shard("fewer.h5", 1, 2, [](Layout& l) { l.points.pop_back(); })},
          "captured point 5 is no more where that has lm_head (float64, 300 wide)");
  refused({first, shard("width.h5", 1, 2, [](Layout& l) { l.points[4].point.width = 6; })},
          "captured point 4 is model.norm (float32, 6 wide) where that has model.norm (float32, 5 wide)");
  refused({first, shard("first.h5", 1, 2, [](Layout& l) { l.identity[runtime::kShardFirstPrompt] = 2; })},
          "says it has 2 prompts from 2 on of 3");
  refused({first, shard("text.h5", 1, 2, [](Layout& l) { l.identity[runtime::kShard] = "half"; })},
          path("text.h5") + ": --shard: \"half\" is no INDEX/COUNT");

  Layout whole = whole_layout();
  test::write_run(out / "no-shard.h5", whole);
  CHECK_THROWS_WITH_AS(merge(out / "merged.h5", {first, out / "no-shard.h5"}),
                       (path("no-shard.h5") + ": is no shard of a run: it has no attribute shard\n" +
                        "  help: name files that layerprobe run --shard INDEX/COUNT wrote")
                           .c_str(),
                       Error);
  refused({first, out / "missing.h5"}, path("missing.h5") + ": no such file");
  { const Writer stopped(out / "stopped.h5", shard_layout(1, 2), Writer::IfExists::refuse); }
  refused({first, out / "stopped.h5"}, path("stopped.h5") + ": the run that writes it has not finished");
  refused({first, out / "stopped.h5.partial"}, path("stopped.h5.partial") + ": is a run that has not finished");
  test::write_all(out / "cut.h5", test::read_all(second).substr(0, 5000));
  refused({first, out / "cut.h5"}, path("cut.h5") + ": is cut off");
  CHECK_THROWS_WITH_AS(merge(first, {first, half}, Writer::IfExists::overwrite),
                       doctest::Contains("is a shard and the file to be made from it"), Error);
  test::check_same_capture(first, shard("again.h5", 0, 3));  // the shard was left alone
}

TEST_CASE("a merge that is stopped leaves a partial file, and goes on from there") {
  const test::TempFolder out;
  test::write_run(out / "whole.h5", whole_layout());
  const Paths shards = {write_shard(out / "a.h5", 0, 2), write_shard(out / "b.h5", 1, 2)};
  const std::filesystem::path merged = out / "merged.h5";
  const auto stopped_after = [&](int steps) {
    runtime::MergeWatch watch;
    watch.should_stop = [steps]() mutable { return steps-- == 0; };
    return watch;
  };
  CHECK_THROWS_WITH_AS(merge(merged, shards, Writer::IfExists::refuse, stopped_after(7)),
                       doctest::Contains("merged.h5.partial: stopped as asked; "), Error);
  CHECK_FALSE(std::filesystem::exists(merged));
  CHECK_THROWS_WITH_AS(merge(merged, shards),
                       doctest::Contains("--resume continues it, --overwrite starts afresh; or choose another OUT.h5"),
                       Error);
  const runtime::MergeReport report = merge(merged, shards, Writer::IfExists::resume);
  CHECK(report.resumed_bytes > 0);
  CHECK(report.resumed_bytes < report.captured_bytes);
  test::check_same_capture(out / "whole.h5", merged);
  CHECK(merge(merged, shards, Writer::IfExists::resume).was_finished);
  CHECK_FALSE(merge(merged, shards, Writer::IfExists::overwrite).was_finished);
  test::check_same_capture(out / "whole.h5", merged);
}

TEST_CASE("MiniMax-M2 over eight devices, into several files, is what one device makes of it") {
  const test::TempFolder model{test::memory_folder()}, out{test::memory_folder()};
  const std::string script = (test::root_folder() / "scripts/make_checkpoint.py").string();
  REQUIRE(std::system(text("python3 ", script, " minimax-m2-tiny ", model.path().string(), "/m --layers 22 --fp8 >",
                           model.path().string(), "/log 2>&1")
                          .c_str()) == 0);
  runtime::RunOptions options;
  options.model = (model / "m").string();
  options.input.random_tokens = "24x20:3";
  options.tokens_per_batch = 40;
  options.device_map = "cpu";
  options.output = (out / "one.h5").string();
  runtime::run(options, {});

  options.device_map = "cpu:0,cpu:1,cpu:2,cpu:3,cpu:4,cpu:5,cpu:6,cpu:7";
  options.num_replicas = 1;
  Paths files;
  for (std::int64_t index = 0; index < 3; ++index) {
    options.shard = runtime::Shard{.index = index, .count = 3};
    options.output = (out / text("part", index, ".h5").c_str()).string();
    const runtime::RunReport report = runtime::run(options, {});
    files.emplace_back(options.output);
    REQUIRE(report.devices.size() == 8);  // each has some of the layers, one after the other
    CHECK(report.devices.front().modules.starts_with("embed_tokens, 0"));
    CHECK(report.devices.back().modules.ends_with("21, norm"));
    for (const runtime::RunReport::Device& device : report.devices) {
      CAPTURE(device.name);
      CHECK(device.busy_seconds > 0);
      CHECK(device.modules.find(';') == std::string::npos);  // nothing streams
    }
    REQUIRE(report.transfers.size() == 7);
    for (std::size_t i = 0; i < 7; ++i) {
      CHECK(report.transfers[i].from == text("cpu:", i));
      CHECK(report.transfers[i].to == text("cpu:", i + 1));
      CHECK(report.transfers[i].transport == "peer");
    }
  }
  merge(out / "merged.h5", files);
  test::check_same_capture(out / "one.h5", out / "merged.h5");
  CHECK(Reader(out / "merged.h5").points().size() == 24);

  options.shard.reset();  // as it is without anything said: pipelines on fewer of the eight, whatever pays
  options.num_replicas = 0;
  options.output = (out / "auto.h5").string();
  runtime::run(options, {});
  test::check_same_capture(out / "one.h5", out / "auto.h5");
}

TEST_CASE("how many tokens chose each expert is counted over all shards") {
  const test::TempFolder out;
  runtime::RunOptions options;
  options.model = (test::root_folder() / "tests/data/parity/mixtral-gqa").string();
  options.input.random_tokens = "5x4";
  options.request.capture = {"model.layers.*.mlp:topk_indices"};
  options.output = (out / "whole.h5").string();
  runtime::run(options, {});
  Paths files;
  for (std::int64_t index = 0; index < 2; ++index) {
    options.shard = runtime::Shard{.index = index, .count = 2};
    options.output = (out / text("part", index, ".h5").c_str()).string();
    runtime::run(options, {});
    files.emplace_back(options.output);
  }
  merge(out / "merged.h5", files);
  const Reader whole(out / "whole.h5"), merged(out / "merged.h5");
  for (std::size_t point = 0; point < whole.points().size(); ++point) {
    const std::vector<std::int64_t> counts = whole.expert_counts(point);
    CHECK(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}) == 5 * 4 * whole.points()[point].point.width);
    CHECK(merged.expert_counts(point) == counts);
  }
}

TEST_CASE("merge tells what it did and what was wrong") {
  const test::TempFolder out;
  const std::string a = write_shard(out / "a.h5", 0, 2).string();
  const std::string b = write_shard(out / "b.h5", 1, 2).string();
  const std::string merged = (out / "merged.h5").string();
  const test::Finished one = test::run_layerprobe({"merge", merged, a});
  CHECK(one.exit_code == 2);
  CHECK(one.err.starts_with("error: " + a + ": prompts 1 to 2 of 3 are in no shard that was named\n  help: "));
  const test::Finished both = test::run_layerprobe({"merge", merged, b, a});
  CHECK(both.exit_code == 0);
  CHECK(both.out.starts_with("wrote " + merged + ": 2 shards, 3 prompts, 6 tokens, 6 points, "));
  const test::Finished again = test::run_layerprobe({"merge", merged, b, a});
  CHECK(again.exit_code == 2);
  CHECK(again.err ==
        "error: " + merged + ": exists already\n  help: --overwrite replaces it; or choose another OUT.h5\n");
  const test::Finished json = test::run_layerprobe({"merge", "--json", "--resume", merged, b, a});
  CHECK(json.exit_code == 0);
  CHECK(json.out.find("\"was_finished\": true") != std::string::npos);
  CHECK(test::run_layerprobe({"inspect", merged}).exit_code == 0);
}

}  // namespace layerprobe
