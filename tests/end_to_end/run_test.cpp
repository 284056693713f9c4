#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/float16.h"
#include "runtime/session.h"
#include "store/reader.h"
#include "tests/store/sample.h"
#include "tests/support/fetched.h"
#include "tests/support/places.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

/// A tiny model and a folder for what comes out of it.
struct Bench {
  test::TempFolder model;
  test::TempFolder out;

  explicit Bench(const std::string& config = test::kTinyConfig) { test::write_tiny_model(model, config); }

  std::string file(const std::string& name) const { return (out.path() / name).string(); }

  /// Runs the program on the model; the captures are in `name`.
  test::Finished run(const std::string& name, std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"run", "--model", model.path().string(), "--output", file(name), "--quiet"});
    return test::run_layerprobe(arguments);
  }
};

std::vector<std::byte> rows_of(const store::Reader& reader, const std::string& name) {
  const std::size_t point = reader.find(name).value();
  const ProbePoint& found = reader.points()[point].point;
  std::vector<std::byte> rows(static_cast<std::size_t>(reader.rows().num_rows() * found.width) * size_of(found.dtype));
  reader.read_rows(point, 0, reader.rows().num_rows(), rows);
  return rows;
}

/// Names of the points whose bits differ, or that only one file has.
std::vector<std::string> differing(const std::string& a, const std::string& b) {
  const store::Reader left(a), right(b);
  std::vector<std::string> names;
  for (const store::Layout::Point& each : left.points()) {
    const auto other = right.find(each.point.name);
    if (!other || rows_of(left, each.point.name) != rows_of(right, each.point.name)) names.push_back(each.point.name);
  }
  if (left.points().size() != right.points().size()) names.push_back("number of points");
  return names;
}

const std::vector<std::string> kTokens = {"--random-tokens", "9x13:1"};

std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

}  // namespace

TEST_CASE("--fp8-math w8a8 is refused where there is no FP8 and where nothing multiplies it") {
  const Bench bench;
  const auto refusal = [&](const std::string& model, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"run", "--model", model, "--random-tokens", "1x3", "--device-map", "cpu",
                                         "--output", bench.file("none.h5")});
    const test::Finished finished = test::run_layerprobe(arguments);
    CHECK(finished.exit_code == 2);
    CHECK(!std::filesystem::exists(bench.file("none.h5")));
    return finished.err;
  };
  const std::string tiny = bench.model.path().string();
  CHECK(refusal(tiny, {"--fp8-math", "w8a8"}).find("the checkpoint has no weights in blocks of FP8") !=
        std::string::npos);
  CHECK(refusal(tiny, {"--fp8-math", "int4"}).find("choose dequantize or w8a8") != std::string::npos);
  const std::string fp8 = (test::root_folder() / "tests/data/parity/qwen3-fp8").string();
  CHECK(refusal(fp8, {"--fp8-math", "w8a8"}).find("cpu: multiplies no FP8 in blocks") != std::string::npos);
  CHECK(refusal(fp8, {"--fp8-math", "w8a8", "--dtype", "float32"}).find("not float32") != std::string::npos);
}

TEST_CASE("the batch size changes no bit, in any dtype") {
  const Bench bench;
  for (const char* dtype : {"bfloat16", "float16", "float32", "float64"}) {
    CAPTURE(dtype);
    const std::vector<std::string> arguments = with(kTokens, {"--dtype", dtype, "--overwrite", "--capture", "**"});
    REQUIRE(bench.run("one.h5", with(arguments, {"--tokens-per-batch", "1"})).exit_code == 0);
    for (const char* tokens : {"30", "4096"}) {
      CAPTURE(tokens);
      REQUIRE(bench.run("many.h5", with(arguments, {"--tokens-per-batch", tokens})).exit_code == 0);
      CHECK(differing(bench.file("one.h5"), bench.file("many.h5")).empty());
    }
  }
}

TEST_CASE("latent attention and experts do not know of batches and devices, nor do the counts of the experts' tokens") {
  const test::TempFolder out;
  for (const char* name : {"deepseek-v3", "qwen3-vl-moe-as-published"}) {
    CAPTURE(name);
    const std::string model = (test::root_folder() / "tests/data/parity" / name).string();
    const auto run = [&](const std::string& file, const std::vector<std::string>& more) {
      const test::Finished finished =
          test::run_layerprobe(with({"run", "--model", model, "--random-tokens", "5x19:1", "--output",
                                     (out.path() / file).string(), "--quiet", "--overwrite", "--capture", "**"},
                                    more));
      CAPTURE(finished.err);
      REQUIRE(finished.exit_code == 0);
      return (out.path() / file).string();
    };
    const std::string one = run("one.h5", {"--tokens-per-batch", "1", "--device-map", "cpu"});
    const std::string many = run("many.h5", {"--tokens-per-batch", "64", "--device-map", "cpu:0,cpu:1"});
    CHECK(differing(one, many).empty());
    const store::Reader a(one), b(many);
    std::size_t num_routers = 0;
    for (std::size_t i = 0; i < a.points().size(); ++i) {
      const std::vector<std::int64_t> counts = a.expert_counts(i);
      CHECK(counts == b.expert_counts(i));
      CHECK(counts.empty() == (a.points()[i].point.dtype != Dtype::i32));
      if (counts.empty()) continue;
      ++num_routers;
      std::vector<std::int64_t> counted(counts.size());
      const std::vector<std::byte> rows = rows_of(a, a.points()[i].point.name);
      for (std::size_t at = 0; at < rows.size(); at += sizeof(std::int32_t)) {
        std::int32_t expert = 0;
        std::memcpy(&expert, rows.data() + at, sizeof expert);
        ++counted.at(static_cast<std::size_t>(expert));
      }
      CHECK(counts == counted);
    }
    CHECK(num_routers == 2);
  }
}

TEST_CASE("a layer by itself, or a range, gives the bits of the whole run") {
  const Bench bench;
  REQUIRE(bench.run("all.h5", kTokens).exit_code == 0);
  const std::vector<std::string> fed = {"--hidden-states", bench.file("all.h5"), "--capture", "model.layers.*"};
  REQUIRE(bench.run("single.h5", with(fed, {"--test-type", "single", "--layers", "0,2"})).exit_code == 0);
  REQUIRE(bench.run("multi.h5", with(fed, {"--test-type", "multi", "--layers", "1-2"})).exit_code == 0);
  REQUIRE(bench.run("first.h5", with(kTokens, {"--test-type", "multi", "--layers", "0-1"})).exit_code == 0);
  const store::Reader all(bench.file("all.h5"));
  for (const auto& [file, names] : std::vector<std::pair<const char*, std::vector<std::string>>>{
           {"single.h5", {"model.layers.0", "model.layers.2"}},
           {"multi.h5", {"model.layers.1", "model.layers.2"}},
           {"first.h5", {"model.layers.0", "model.layers.1"}}}) {
    CAPTURE(file);
    const store::Reader reader(bench.file(file));
    CHECK(reader.points().size() == names.size());
    for (const std::string& name : names) CHECK(rows_of(reader, name) == rows_of(all, name));
  }

  const std::vector<std::string> again = with(fed, {"--test-type", "multi", "--layers", "1-2", "--resume"});
  CHECK(bench.run("multi.h5", again).exit_code == 0);
  const std::vector<std::byte> rows = rows_of(all, "model.layers.0");
  std::string bytes = test::read_all(bench.file("all.h5"));
  const std::size_t at = bytes.find(std::string_view(reinterpret_cast<const char*>(rows.data()), 64));
  REQUIRE(at != std::string::npos);
  bytes[at] ^= 1;
  test::write_all(bench.file("all.h5"), bytes);  // other values, and all else the same
  CHECK(bench.run("multi.h5", again).err.find("is of another run: input is") != std::string::npos);
}

TEST_CASE("single keeps the block's input, output and every module's output") {
  const Bench bench;
  REQUIRE(bench.run("s.h5", {"--test-type", "single", "--layers", "1"}).exit_code == 0);
  const store::Reader reader(bench.file("s.h5"));
  CHECK(reader.prompts().num_tokens() == 128);
  CHECK(reader.prompts().input_ids.empty());
  for (const char* name : {"model.layers.1:input", "model.layers.1.self_attn.v_proj", "model.layers.1.mlp.act_fn",
                           "model.layers.1.mlp", "model.layers.1"}) {
    CAPTURE(name);
    CHECK(reader.find(name).has_value());
  }
  CHECK_FALSE(reader.find("model.layers.0").has_value());
  CHECK_FALSE(reader.find("model.layers.1.mlp.down_proj:input").has_value());
}

TEST_CASE("--layers, --capture and --tokens keep a part of the same bits") {
  const Bench bench;
  REQUIRE(bench.run("all.h5", with(kTokens, {"--capture", "**"})).exit_code == 0);
  REQUIRE(bench.run("layers.h5", with(kTokens, {"--layers", "-1"})).exit_code == 0);
  const store::Reader all(bench.file("all.h5")), layers(bench.file("layers.h5"));
  REQUIRE(layers.points().size() == 3);
  for (const store::Layout::Point& each : layers.points()) {
    CHECK(rows_of(layers, each.point.name) == rows_of(all, each.point.name));
  }

  REQUIRE(bench.run("last.h5", with(kTokens, {"--tokens", "last", "--tokens-per-batch", "30"})).exit_code == 0);
  const store::Reader last(bench.file("last.h5"));
  const std::vector<std::byte> whole = rows_of(all, "model.layers.1"), part = rows_of(last, "model.layers.1");
  const std::size_t row = 36 * 2;
  REQUIRE(part.size() == 9 * row);
  for (std::size_t prompt = 0; prompt < 9; ++prompt) {
    CHECK(std::memcmp(part.data() + prompt * row, whole.data() + (prompt * 13 + 12) * row, row) == 0);
  }

  REQUIRE(bench.run("mean.h5", with(kTokens, {"--tokens", "mean"})).exit_code == 0);
  const store::Reader mean(bench.file("mean.h5"));
  const std::size_t point = mean.find("model.norm").value();
  CHECK(mean.points()[point].point.dtype == Dtype::f32);
  const std::vector<std::byte> means = rows_of(mean, "model.norm"), values = rows_of(all, "model.norm");
  double sum = 0;
  for (std::size_t token = 0; token < 13; ++token) {
    sum += f32_of_bf16(reinterpret_cast<const std::uint16_t*>(values.data())[token * 36 + 5]);
  }
  CHECK(reinterpret_cast<const float*>(means.data())[5] == static_cast<float>(sum / 13));
}

TEST_CASE("the same value has the same bits under each of its names") {
  const Bench bench;
  REQUIRE(bench.run("all.h5", with(kTokens, {"--capture", "**"})).exit_code == 0);
  const store::Reader all(bench.file("all.h5"));
  for (const auto& [a, b] : std::vector<std::pair<const char*, const char*>>{
           {"model.embed_tokens", "model.layers.0:input"},
           {"model.layers.0", "model.layers.1:input"},
           {"model.layers.2", "model.norm:input"},
           {"model.layers.1.input_layernorm", "model.layers.1.self_attn.k_proj:input"},
           {"model.layers.1.self_attn", "model.layers.1.self_attn.o_proj"},
           {"model.layers.1.mlp", "model.layers.1.mlp.down_proj"},
           {"model.layers.1.mlp.gate_proj", "model.layers.1.mlp.act_fn:input"}}) {
    CAPTURE(a);
    CAPTURE(b);
    const auto first = all.find(a), second = all.find(b);
    REQUIRE(first.has_value());
    REQUIRE(second.has_value());
    CHECK(rows_of(all, a) == rows_of(all, b));
  }
}

TEST_CASE("full keeps the text of the tokens it ranks") {
  test::TempFolder out;
  const std::string file = (out.path() / "f.h5").string();
  const test::Finished finished =
      test::run_layerprobe({"--model", test::demo_model().string(), "--test-type", "full", "--prompt",
                            "The capital of France is", "--layers", "0", "--output", file, "--quiet"});
  REQUIRE(finished.exit_code == 0);
  const store::Reader::TopK top = store::Reader(file).top_k();
  REQUIRE(top.texts.size() == 10);
  CHECK(top.texts[0] == " Paris");
}

TEST_CASE("full ranks the logits of the last tokens and keeps statistics of every layer") {
  const Bench bench;
  REQUIRE(bench.run("f.h5", with(kTokens, {"--test-type", "full"})).exit_code == 0);
  const store::Reader reader(bench.file("f.h5"));
  CHECK(reader.rows().num_rows() == 9);
  const std::vector<std::byte> logits = rows_of(reader, "lm_head");
  const store::Reader::TopK top = reader.top_k();
  REQUIRE(top.k == 10);
  for (std::size_t row = 0; row < 9; ++row) {
    const auto* values = reinterpret_cast<const std::uint16_t*>(logits.data()) + row * 61;
    std::size_t best = 0;
    for (std::size_t id = 1; id < 61; ++id) {
      if (f32_of_bf16(values[id]) > f32_of_bf16(values[best])) best = id;
    }
    CHECK(top.ids[row * 10] == static_cast<std::int32_t>(best));
    CHECK(top.logits[row * 10] == f32_of_bf16(values[best]));
  }
  const std::size_t layer = reader.find("model.layers.1").value();
  CHECK_FALSE(reader.points()[layer].stored);
  CHECK(reader.statistics(layer).count == 9 * 13 * 36);
}

TEST_CASE("a run that stops anywhere is resumed to the same bits, behind the layers it had") {
  const Bench bench;
  runtime::RunOptions options;
  options.model = bench.model.path().string();
  options.input.random_tokens = "9x13:1";
  options.tokens_per_batch = 30;
  options.output = bench.file("whole.h5");
  const std::int64_t all_tokens = runtime::run(options, {}).computed_tokens;
  CHECK(all_tokens == 9 * 13);

  for (const int stop_after : {1, 2, 3, 5, 11}) {
    CAPTURE(stop_after);
    options.output = bench.file("resumed.h5");
    options.if_exists = store::Writer::IfExists::overwrite;
    int steps = 0;
    runtime::Watch watch;
    watch.step = [&](const runtime::Watch::Step& step) {
      if (step.kind == runtime::Watch::Step::Kind::running && ++steps == stop_after) throw std::runtime_error("stop");
    };
    CHECK_THROWS_AS(runtime::run(options, watch), std::runtime_error);
    options.if_exists = store::Writer::IfExists::resume;
    options.tokens_per_batch = 50;  // may change
    const runtime::RunReport report = runtime::run(options, {});
    CHECK(report.resumed_bytes > 0);
    if (stop_after > 3) CHECK(report.computed_tokens < all_tokens);
    CHECK(differing(bench.file("whole.h5"), bench.file("resumed.h5")).empty());
    const store::Reader whole(bench.file("whole.h5")), resumed(bench.file("resumed.h5"));
    for (std::size_t point = 0; point < whole.points().size(); ++point) {
      CHECK(whole.statistics(point).sum == resumed.statistics(point).sum);
      CHECK(whole.statistics(point).abs_max_row == resumed.statistics(point).abs_max_row);
    }
    CHECK(runtime::run(options, {}).was_finished);
    options.tokens_per_batch = 30;
  }

  options.input.random_tokens = "9x13:2";
  CHECK_THROWS_WITH_AS(runtime::run(options, {}), doctest::Contains("is of another run: token 0 of prompt 0"), Error);

  options.input.random_tokens = "9x13:1";
  test::write_tiny_model(bench.model, test::kTinyConfig, [](const std::string& name, std::vector<float>& values) {
    if (name == "model.layers.2.mlp.up_proj.weight") values[values.size() / 2] += 1;
  });
  CHECK_THROWS_WITH_AS(runtime::run(options, {}), doctest::Contains("is of another run: weights_sample_hash is"),
                       Error);
}

TEST_CASE("a NaN is reported with the first point, prompt and token that has one") {
  test::TempFolder model, out;
  test::write_tiny_model(model, test::kTinyConfig, [](const std::string& name, std::vector<float>& values) {
    if (name == "model.embed_tokens.weight") values[17 * 36 + 3] = std::numeric_limits<float>::quiet_NaN();
  });
  const std::string ids = out.write("ids.json", "[[1, 2, 3], [4, 17, 5]]").string();
  const test::Finished finished = test::run_layerprobe(
      {"--model", model.path().string(), "--input-ids", ids, "--output", (out.path() / "n.h5").string(), "--quiet"});
  CHECK(finished.exit_code == 1);
  CHECK(finished.err.starts_with("not finite: first in model.embed_tokens, prompt 1, token 1 (1 NaN"));
  CHECK(std::filesystem::exists(out.path() / "n.h5"));
}

TEST_CASE("float64 is the truth that the other dtypes come near") {
  const Bench bench;
  REQUIRE(bench.run("f64.h5", with(kTokens, {"--dtype", "float64"})).exit_code == 0);
  for (const auto& [dtype, limit] : {std::pair{"float32", "1e-5"}, {"float16", "1e-2"}, {"bfloat16", "5e-2"}}) {
    CAPTURE(dtype);
    REQUIRE(bench.run("other.h5", with(kTokens, {"--dtype", dtype, "--overwrite"})).exit_code == 0);
    const test::Finished compared =
        test::run_layerprobe({"compare", bench.file("f64.h5"), bench.file("other.h5"), "--max-rel-l2", limit});
    CAPTURE(compared.out);
    CHECK(compared.exit_code == 0);
  }
}

TEST_CASE("what cannot run is one message and leaves no file") {
  const Bench bench;
  const auto refused = [&](const std::vector<std::string>& arguments, const char* message) {
    CAPTURE(message);
    const test::Finished finished = bench.run("no.h5", arguments);
    CAPTURE(finished.err);
    CHECK(finished.exit_code == 2);
    CHECK(finished.err.starts_with("error: "));
    CHECK(finished.err.find(message) != std::string::npos);
    CHECK(finished.err.find("\n  help: ") != std::string::npos);
    CHECK(finished.out.empty());
    CHECK(std::filesystem::is_empty(bench.out.path()));
  };
  refused({}, "no input is given");
  refused({"--random-tokens", "1x1", "--prompt", "a"}, "more than one kind of input");
  refused({"--prompt", ""}, "--prompt 1: is empty");
  refused({"--random-tokens", "1x2", "--test-type", "half"}, "\"half\" is no test type");
  refused({"--random-tokens", "1x2", "--dtype", "int8"}, "--dtype: \"int8\" is no dtype");
  refused({"--random-tokens", "1x2", "--layers", "7"}, "the model has layers 0 to 2");
  refused({"--random-tokens", "1x2", "--capture", "model.layers.0.mpl"}, "did you mean model.layers.0.mlp");
  refused({"--random-tokens", "1x2", "--capture", "lm_head"}, "use --test-type full");
  refused({"--random-tokens", "1x2", "--tokens", "first"}, "--tokens: \"first\"");
  refused({"--random-tokens", "3x4", "--tokens", "4:9"}, "--tokens: \"4:9\" keeps no token of any prompt");
  refused({"--random-tokens", "1x2", "--tokens-per-batch", "0"}, "--tokens-per-batch: \"0\" is no whole number from 1");
  refused({"--random-tokens", "1x2", "--commit-every", "nan"}, "--commit-every: \"nan\" is no number from 0 on");
  refused({"--random-tokens", "1x2", "--device-map", "cuda:99"}, "error: --device-map: cuda");
  refused({"--random-tokens", "1x2", "--device-map", "gpu"}, "\"gpu\" is no map");
  refused({"--random-tokens", "1x2", "--device-map", "cpu:0,cpu:1", "--replicas", "3"}, "3 replicas");
  refused({"--random-tokens", "1x2", "--transport", "mail"}, "--transport: \"mail\" is no transport");
  refused({"--random-tokens", "1x2", "--device-map", "cpu:0,", "--max-memory", "1GB"}, "\"\" is no device");
  refused({"--random-tokens", "1x2", "--device-map", "balanced", "--max-memory", "cpu:0:1KB"},
          "the largest budget is 1.00 kB");
  refused({"--random-tokens", "1x2", "--test-type", "single"}, "takes no prompts");
  refused({"--random-tokens", "1x2", "--test-type", "multi", "--layers", "1-2"}, "begin at layer 1");
  refused({"--random-tokens", "1x2", "--test-type", "multi", "--layers", "0,2"}, "has gaps");
  refused({"--random-hidden-states", "1x2"}, "needs prompts");
  refused({"--hidden-states", "/nowhere.h5", "--test-type", "single"}, "/nowhere.h5");
  refused({"--random-tokens", "1x2", "--colour", "red"}, "--colour: no such option");
}

TEST_CASE("an output that exists stays as it is unless --overwrite is given") {
  const Bench bench;
  const std::filesystem::path file = bench.out.write("kept.h5", "precious");
  CHECK(bench.run("kept.h5", kTokens).exit_code == 2);
  CHECK(std::filesystem::file_size(file) == 8);
  CHECK(bench.run("kept.h5", with(kTokens, {"--overwrite"})).exit_code == 0);
  CHECK(std::filesystem::file_size(file) > 8);
}

TEST_CASE("a model that disagrees with its config is refused with the tensor's name") {
  const auto refused = [](const std::string& config, const char* message) {
    test::TempFolder model;
    test::write_tiny_model(model);
    model.write("config.json", config);
    const test::Finished finished =
        test::run_layerprobe({"--model", model.path().string(), "--random-tokens", "1x2", "--output", "none"});
    CAPTURE(finished.err);
    CHECK(finished.exit_code == 2);
    CHECK(finished.err.find(message) != std::string::npos);
  };
  const std::string good = test::kTinyConfig;
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string config = good;
    config.replace(config.find(from), from.size(), to);
    return config;
  };
  refused(changed("\"intermediate_size\": 50", "\"intermediate_size\": 52"),
          "model.layers.0.mlp.gate_proj.weight: shape is [50, 36] where config.json says [52, 36]");
  refused(changed("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"),
          "has no tensor model.layers.3.input_layernorm.weight");
  refused(changed("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"), "has no use for: model.layers.2.");
  refused(changed("\"llama\"", "\"qwen2\""), "has no tensor model.layers.0.self_attn.q_proj.bias");
}

TEST_CASE("--json tells what was done") {
  const Bench bench;
  const test::Finished finished = test::run_layerprobe(
      {"--model", bench.model.path().string(), "--random-tokens", "2x3", "--output", bench.file("j.h5"), "--json"});
  REQUIRE(finished.exit_code == 0);
  const Json report = Json::parse(finished.out, "stdout");
  CHECK(report.find("num_tokens")->integer() == 6);
  CHECK(report.find("points")->items().size() == 5);
  CHECK(report.find("points")->items()[0].find("statistics")->find("count")->integer() == 6 * 36);
}

}  // namespace layerprobe
