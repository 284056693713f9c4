// Runs on several virtual devices: whatever the cut, what streams and which way hidden states go, the same bits.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "runtime/session.h"
#include "tests/support/places.h"
#include "tests/support/same_capture.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

/// A little model of six layers whose widths are whole vectors, so that packed weights take no more than they are.
const char* const kConfig =
    R"({"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128,
  "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "torch_dtype": "float32",
  "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";

struct Bench {
  test::TempFolder model{test::memory_folder()}, out{test::memory_folder()};

  Bench() { test::write_tiny_model(model, kConfig); }

  runtime::RunOptions options(const std::string& name) const {
    runtime::RunOptions options;
    options.model = model.path().string();
    options.device_map = "cpu";  // virtual devices are compared with it, on a machine with a GPU too
    options.input.random_tokens = "23x7:1";
    options.tokens_per_batch = 30;
    options.output = (out.path() / name).string();
    options.if_exists = store::Writer::IfExists::overwrite;
    options.request.capture = {"**"};
    return options;
  }
  std::filesystem::path file(const std::string& name) const { return out.path() / name; }
};

/// --device-map, --max-memory and --replicas.
struct Where {
  const char* device_map;
  const char* max_memory = "";
  std::int64_t num_replicas = 0;
};

runtime::RunOptions on(runtime::RunOptions options, const Where& where) {
  options.device_map = where.device_map;
  options.max_memory = where.max_memory;
  options.num_replicas = where.num_replicas;
  return options;
}

// A layer is 132 kB, the embedding and the head 16 kB, a micro-batch's activations 100 kB.
const std::vector<Where> kPlaces = {
    {"cpu:0,cpu:1", "", 1},
    {"cpu:0,cpu:1", "", 2},
    {"cpu:0,cpu:1,cpu:2,cpu:3", "", 1},
    {"cpu:0,cpu:1,cpu:2,cpu:3", "", 2},
    {"cpu:0,cpu:1,cpu:2,cpu:3", "", 4},
    {"balanced", "cpu:0:900KB,cpu:1:900KB"},
    {"auto", "cpu:0:800KB,cpu:1:800KB,cpu:2:800KB"},
    // Weights that stream: all of them, some, on two devices.
    {R"({"": "disk"})"},
    {"auto", "cpu:0:800KB"},
    {"auto", "cpu:0:800KB,cpu:1:800KB"},
    {R"({"": "cpu:0", "model.layers.2": "cpu", "model.layers.3": "disk", "model.layers.5": "cpu:1"})"},
    // Devices that come back, resident and streamed.
    {R"({"": "cpu:0", "model.layers.1": "cpu:1", "model.layers.3": "cpu:1", "model.norm": "cpu:2"})"},
    {R"({"model.embed_tokens": "cpu:0", "model.layers": "disk", "model.layers.0": "cpu:1", "model.norm": "cpu:0",
      "lm_head": "disk"})"},
    {R"({"": "cpu:1", "model.embed_tokens": "cpu:0", "model.norm": "cpu:0"})"},
};

/// Of the layers from `first_layer` on, the experts that some token of the file's chose.
std::int64_t num_chosen(const std::filesystem::path& file, std::int64_t first_layer) {
  const store::Reader reader(file);
  std::int64_t count = 0;
  for (std::size_t point = 0; point < reader.points().size(); ++point) {
    if (layer_of(reader.points()[point].point.name) < first_layer) continue;
    for (const std::int64_t tokens : reader.expert_counts(point)) count += tokens > 0;
  }
  return count;
}

}  // namespace

TEST_CASE("whatever the devices, the cut, what streams and the transport: the same file") {
  const Bench bench;
  runtime::run(bench.options("one.h5"), {});
  std::set<std::string> transports;
  for (const Where& where : kPlaces) {
    for (const runtime::Transport transport : {runtime::Transport::automatic, runtime::Transport::host}) {
      CAPTURE(where.device_map);
      CAPTURE(where.max_memory);
      runtime::RunOptions options = on(bench.options("other.h5"), where);
      options.transport = transport;
      const runtime::RunReport report = runtime::run(options, {});
      test::check_same_capture(bench.file("one.h5"), bench.file("other.h5"));
      for (const runtime::RunReport::Transfer& transfer : report.transfers) {
        transports.insert(transfer.transport);
        if (transport == runtime::Transport::host) CHECK(transfer.transport == "host");
      }
    }
  }
  CHECK(transports == std::set<std::string>{"host", "peer"});
}

TEST_CASE("where NCCL does not lead, hidden states go through the host and the run says so") {
  const Bench bench;
  runtime::run(bench.options("one.h5"), {});
  runtime::RunOptions options = on(bench.options("other.h5"), kPlaces[0]);
  options.transport = runtime::Transport::nccl;
  std::string warning;
  const runtime::RunReport report =
      runtime::run(options, {.warn = [&](const std::string& message) { warning = message; }});
  test::check_same_capture(bench.file("one.h5"), bench.file("other.h5"));
  REQUIRE(report.transfers.size() == 1);
  CHECK(report.transfers[0].transport == "host");
  CHECK(report.transfers[0].why == "NCCL is between GPUs");
  CHECK(warning == "--transport nccl: cpu:0 to cpu:1 goes through the host: NCCL is between GPUs");
}

TEST_CASE("full and single give the same on several devices, ranks and means too") {
  const Bench bench;
  for (const char* tokens : {"last", "mean"}) {
    CAPTURE(tokens);
    runtime::RunOptions full = bench.options("one.h5");
    full.request.test_type = plan::TestType::full;
    full.request.tokens = tokens;
    full.request.capture = {};
    const runtime::RunReport one = runtime::run(full, {});
    full.output = bench.file("other.h5").string();
    for (const Where& where : {kPlaces[0], kPlaces[4], kPlaces[7], kPlaces[12]}) {
      CAPTURE(where.device_map);
      const runtime::RunReport other = runtime::run(on(full, where), {});
      test::check_same_capture(bench.file("one.h5"), bench.file("other.h5"));
      REQUIRE(other.top_k.size() == one.top_k.size());
      for (std::size_t i = 0; i < one.top_k.size(); ++i) {
        CHECK(other.top_k[i].prompt == one.top_k[i].prompt);
        CHECK(other.top_k[i].ids == one.top_k[i].ids);
      }
    }
  }
  runtime::RunOptions single = bench.options("one.h5");
  single.request = {.test_type = plan::TestType::single, .layers = "0,2,3,5"};
  single.input = {.random_hidden_states = "23x7:1"};
  runtime::run(single, {});
  single.output = bench.file("other.h5").string();
  for (const Where& where : {kPlaces[0], kPlaces[1], kPlaces[3], kPlaces[10]}) {
    CAPTURE(where.device_map);
    runtime::run(on(single, where), {});
    test::check_same_capture(bench.file("one.h5"), bench.file("other.h5"));
  }
}

TEST_CASE("statistics without a file are put together in the order of the prompts") {
  const Bench bench;
  runtime::RunOptions options = bench.options("");
  options.output = "none";
  const runtime::RunReport one = runtime::run(options, {});
  for (const Where& where : {kPlaces[1], kPlaces[3], kPlaces[4], kPlaces[9]}) {
    CAPTURE(where.device_map);
    const runtime::RunReport other = runtime::run(on(options, where), {});
    REQUIRE(other.points.size() == one.points.size());
    for (std::size_t i = 0; i < one.points.size(); ++i) {
      for (const store::Measure& measure : store::kMeasures) {
        CHECK(measure.bits_of(one.points[i].statistics) == measure.bits_of(other.points[i].statistics));
      }
    }
  }
}

TEST_CASE("a run that is stopped on some devices is resumed on others to the same file") {
  const Bench bench;
  runtime::run(bench.options("whole.h5"), {});
  int turn = 0;
  for (const int stop_after : {1, 7, 17, 33}) {
    for (const std::size_t place : {std::size_t{0}, std::size_t{3}, std::size_t{9}, std::size_t{12}}) {
      const Where& before = kPlaces[place];
      const Where& after = kPlaces[static_cast<std::size_t>(++turn) % kPlaces.size()];
      CAPTURE(stop_after);
      CAPTURE(before.device_map);
      CAPTURE(after.device_map);
      runtime::RunOptions options = on(bench.options("resumed.h5"), before);
      options.commit_every_seconds = 0;
      std::atomic<int> steps = 0;
      runtime::Watch watch;
      watch.step = [&](const runtime::Watch::Step& step) {
        if (step.kind == runtime::Watch::Step::Kind::running) ++steps;
      };
      watch.should_stop = [&] { return steps >= stop_after; };
      try {
        runtime::run(options, watch);
        FAIL("it was to be stopped");
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::interrupted);
        CHECK(std::string(error.what()).find("stopped as asked; ") != std::string::npos);
      }
      options = on(options, after);
      options.if_exists = store::Writer::IfExists::resume;
      options.tokens_per_batch = 50;
      runtime::run(options, {});
      test::check_same_capture(bench.file("whole.h5"), bench.file("resumed.h5"));
    }
  }
}

TEST_CASE("a device that fails ends the run, with its name") {
  const Bench bench;
  for (const Where& where : {kPlaces[0], kPlaces[3], kPlaces[9], kPlaces[11], kPlaces[12]}) {
    for (const int after : {1, 5, 12}) {
      CAPTURE(where.device_map);
      std::atomic<int> steps = 0;
      runtime::Watch watch;
      watch.step = [&](const runtime::Watch::Step& step) {
        if (step.kind != runtime::Watch::Step::Kind::running || ++steps != after) return;
        throw Error({.kind = ErrorKind::device, .where = "layer 3", .what = "went up in smoke", .fix = "run"});
      };
      std::string message;
      try {
        runtime::run(on(bench.options("failed.h5"), where), watch);
      } catch (const Error& error) {
        message = error.what();
      }
      CHECK(message.starts_with("cpu:"));
      CHECK(message.find(": layer 3: went up in smoke") != std::string::npos);
    }
  }
}

TEST_CASE("weights that cannot be read while they stream end the run, with the layer's name") {
  Bench bench;
  const std::filesystem::path weights = bench.model.path() / "model.safetensors";
  runtime::Watch watch;
  std::atomic<int> steps = 0;
  watch.step = [&](const runtime::Watch::Step& step) {
    if (step.kind == runtime::Watch::Step::Kind::running && ++steps == 8) std::filesystem::resize_file(weights, 20'000);
  };
  CHECK_THROWS_WITH_AS(runtime::run(on(bench.options("cut.h5"), {R"({"": "disk"})"}), watch),
                       doctest::Contains("layer 3: "), Error);
}

TEST_CASE("a device takes no more memory than its limit") {
  const Bench bench;
  for (const Where& where : kPlaces) {
    if (std::string_view(where.max_memory).empty()) continue;
    CAPTURE(where.device_map);
    CAPTURE(where.max_memory);
    const runtime::RunReport report = runtime::run(on(bench.options("limited.h5"), where), {});
    for (const runtime::RunReport::Device& device : report.devices) {
      CAPTURE(device.name);
      CAPTURE(device.modules);
      CHECK(device.most_bytes > 100'000);
      const bool is_larger = std::string_view(where.max_memory).starts_with("cpu:0:900KB");
      CHECK(device.most_bytes <= (is_larger ? 900'000u : 800'000u));
    }
  }
}

TEST_CASE("states of a wave that a device has no room for wait in the host's memory") {
  const Bench bench;
  runtime::RunOptions options = bench.options("one.h5");
  options.input.random_tokens = "60x30:2";
  options.request.capture = {"model.layers.*"};
  runtime::run(options, {});
  options.output = bench.file("other.h5").string();
  const runtime::RunReport report = runtime::run(on(options, {"auto", "cpu:0:700KB"}), {});
  CHECK(report.num_waves == 1);
  REQUIRE(report.devices.size() == 1);
  CHECK(report.devices[0].most_bytes <= 700'000);  // states of all 60 prompts are 460 kB, activations and layers 500
  test::check_same_capture(bench.file("one.h5"), bench.file("other.h5"));
}

TEST_CASE("experts of a streamed layer that no token of a few chose are not read, and the file is the same") {
  const test::TempFolder out(test::memory_folder());
  const std::string parity = (test::root_folder() / "tests/data/parity").string() + "/";
  for (const char* model : {"minimax-m2-fp8", "mixtral-gqa", "deepseek-v3", "qwen3-vl-moe"}) {
    CAPTURE(model);
    runtime::RunOptions options;
    options.model = parity + model;
    options.input.random_tokens = "1x2:3";
    options.request.capture = {"**"};
    options.device_map = "cpu";
    options.output = (out.path() / (std::string(model) + ".h5")).string();
    const runtime::RunReport resident = runtime::run(options, {});
    CHECK(resident.chosen_experts.num_all == 0);
    const std::string file = std::exchange(options.output, (out.path() / "streamed.h5").string());
    options.if_exists = store::Writer::IfExists::overwrite;
    const std::vector<std::pair<const char*, std::int64_t>> maps = {{R"({"": "disk"})", 0},
                                                                    {R"({"": "disk", "model.layers.0": "cpu:0"})", 1}};
    for (const auto& [device_map, first_streamed] : maps) {
      CAPTURE(device_map);
      options.device_map = device_map;
      const runtime::RunReport streamed = runtime::run(options, {});
      test::check_same_capture(file, options.output);
      CHECK(streamed.chosen_experts.num_read == num_chosen(file, first_streamed));
      CHECK(streamed.chosen_experts.num_read < streamed.chosen_experts.num_all);
    }
    options.input.random_tokens = "1x60:3";  // who choose as good as all: read while the layer before computes
    CHECK(runtime::run(options, {}).chosen_experts.num_all == 0);
  }
}

TEST_CASE("every device says what it did and what was predicted") {
  const Bench bench;
  const runtime::RunReport report = runtime::run(on(bench.options("told.h5"), {"cpu:0,cpu:1", "", 1}), {});
  REQUIRE(report.devices.size() == 2);
  CHECK(report.devices[0].name == "cpu:0");
  CHECK(report.devices[0].modules.starts_with("embed_tokens, 0-"));
  CHECK(report.devices[1].modules.ends_with("-5, norm"));
  for (const runtime::RunReport::Device& device : report.devices) {
    CHECK(device.busy_seconds > 0);
    CHECK(device.busy_share <= 1);
  }
  REQUIRE(report.transfers.size() == 1);
  CHECK(report.transfers[0].from == "cpu:0");
  CHECK(report.transfers[0].transport == "peer");
  CHECK(report.predicted.run_seconds > 0);
  CHECK(store::Reader(bench.file("told.h5")).attributes().contains("placement"));
}

}  // namespace layerprobe
