#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/text.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

/// A checkpoint with true headers and no data: its file is one hole.
class HollowModel {
 public:
  explicit HollowModel(const std::string& config_text) {
    const model::ModelConfig config = model::read_config(Json::parse(config_text, "config.json"), "config.json");
    std::vector<model::ExpectedTensor> tensors = {model::embedding_tensor(config), model::norm_tensor(config)};
    if (!config.tie_word_embeddings) tensors.push_back(model::lm_head_tensor(config));
    for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      for (model::ExpectedTensor& tensor : model::layer_tensors(config, layer)) tensors.push_back(std::move(tensor));
    }
    Json::Object header;
    std::uint64_t end = 0;
    for (const model::ExpectedTensor& tensor : tensors) {
      const std::uint64_t begin = end;
      std::uint64_t bytes = 2;
      Json shape(Json::Array{});
      for (const std::int64_t size : tensor.shape) {
        bytes *= static_cast<std::uint64_t>(size);
        shape.push(size);
      }
      end += bytes;
      Json info;
      info.set("dtype", "BF16");
      info.set("shape", shape);
      info.set("data_offsets", Json::Array{Json(begin), Json(end)});
      header.emplace_back(tensor.name, info);
    }
    num_tensors_ = tensors.size();
    folder_.write("config.json", config_text);
    const std::filesystem::path file = folder_.write("model.safetensors", test::safetensors(Json(header).dump(), ""));
    std::filesystem::resize_file(file, std::filesystem::file_size(file) + end);
  }

  std::size_t num_tensors() const { return num_tensors_; }

  test::Finished plan(std::vector<std::string> arguments, const std::string& output = "none") const {
    arguments.insert(arguments.begin(), {"plan", "--model", folder_.path().string(), "--output", output});
    return test::run_layerprobe(arguments);
  }

  Json json(std::vector<std::string> arguments) const {
    arguments.push_back("--json");
    const test::Finished finished = plan(std::move(arguments));
    REQUIRE_MESSAGE(finished.exit_code == 0, finished.err);
    return Json::parse(finished.out, "plan --json");
  }

 private:
  test::TempFolder folder_;
  std::size_t num_tensors_ = 0;
};

/// Llama-8B's shape, or another's of that family.
std::string llama(std::int64_t num_hidden_layers, std::int64_t hidden_size = 4096, std::int64_t intermediate = 14336) {
  return text(R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": )", hidden_size,
              R"(, "intermediate_size": )", intermediate, R"(, "num_hidden_layers": )", num_hidden_layers,
              R"(, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "torch_dtype": "bfloat16",
                 "max_position_embeddings": 131072})");
}

constexpr const char* kTwoLayersOfMiniMaxM2 =
    R"({"model_type": "minimax_m2", "torch_dtype": "bfloat16", "num_hidden_layers": 2, "hidden_size": 3072,
        "intermediate_size": 1536, "num_local_experts": 256, "num_experts_per_tok": 8, "num_attention_heads": 48,
        "num_key_value_heads": 8, "head_dim": 128, "rotary_dim": 64, "vocab_size": 1024})";

const HollowModel& llama_8b() {
  static const HollowModel model(llama(32));
  return model;
}

std::string modules_of(const Json& plan, std::size_t device) {
  return plan.find("devices")->items().at(device).find("modules")->string();
}

std::int64_t bytes_of(const Json& plan, const char* name) {
  return plan.find("devices")->items().at(0).find(name)->integer();
}

void refused(const HollowModel& model, const std::vector<std::string>& arguments, const char* message) {
  const test::Finished finished = model.plan(arguments);
  CHECK(finished.exit_code == 2);
  CHECK(finished.out.empty());
  CHECK_MESSAGE(finished.err.find(message) != std::string::npos, finished.err);
}

}  // namespace

TEST_CASE("plan tells devices, cuts, time and flags of GPUs that are not there") {
  const test::Finished finished =
      llama_8b().plan({"--gpus", "2x80GiB", "--replicas", "1", "--random-tokens", "512x1024"});
  CHECK(finished.exit_code == 0);
  CHECK(finished.err.empty());
  for (const char* part :
       {"extract-all in bfloat16: 512 prompts, 524288 tokens, 34 points",
        "device    limit  weights   budget  activations  workspace   rings     free  compute  modules",
        "embed_tokens, 0-15", "16-31, norm", "cut: even times: cuda:0 computes 6.22 s, cuda:1 6.22 s",
        "compute on cuda:0 binds", "assumed: 600 TFLOP/s, 50.0 GB/s between the host and a device",
        "smallest: one GPU with 85.9 GB holds all weights",
        "flags: --device-map auto --max-memory 80GiB --replicas 1 --tokens-per-batch "}) {
    CHECK_MESSAGE(finished.out.find(part) != std::string::npos, part, "\n", finished.out);
  }
}

TEST_CASE("DEVICE_MAP and MAX_MEMORY stand in for the options") {
  ::setenv("DEVICE_MAP", "sequential", 1);
  ::setenv("MAX_MEMORY", "10GiB,60GiB", 1);
  const Json plan = llama_8b().json({"--gpus", "2x80GiB"});
  const Json given = llama_8b().json({"--gpus", "2x80GiB", "--max-memory", "20GiB,60GiB"});
  ::unsetenv("DEVICE_MAP");
  ::unsetenv("MAX_MEMORY");
  CHECK(bytes_of(plan, "limit_bytes") == std::int64_t{10} << 30);
  CHECK(plan.find("flags")->string().starts_with("--device-map sequential --max-memory 10GiB,60GiB "));
  CHECK(bytes_of(given, "limit_bytes") == std::int64_t{20} << 30);
}

TEST_CASE("what a device holds adds up to its limit") {
  const Json plan = llama_8b().json({"--gpus", "80GiB"});
  const Json* reserve = plan.find("devices")->items().at(0).find("reserve");
  std::int64_t sum = bytes_of(plan, "weights_bytes") + bytes_of(plan, "stream_bytes") + bytes_of(plan, "free_bytes");
  for (const auto& [name, bytes] : reserve->members()) sum += bytes.integer();
  CHECK(sum == bytes_of(plan, "limit_bytes"));
  CHECK(bytes_of(plan, "limit_bytes") == std::int64_t{80} << 30);
  CHECK(bytes_of(plan, "weights_bytes") == 16060522496 - 1050673152);  // no head, as extract-all has none
}

TEST_CASE("a model that fits one GPU gets a pipeline of its own on each") {
  const Json plan = llama_8b().json({"--gpus", "4x80GiB", "--random-tokens", "256x1024"});
  CHECK(plan.find("replicas")->items().size() == 4);
  CHECK(plan.find("devices")->items().size() == 1);
}

TEST_CASE("transformers' words give transformers' cuts") {
  const Json four = llama_8b().json({"--gpus", "4x79GiB", "--device-map", "balanced"});
  CHECK(modules_of(four, 0) == "embed_tokens, 0-6");
  CHECK(modules_of(four, 1) == "7-18");
  CHECK(modules_of(four, 2) == "19-30");
  CHECK(modules_of(four, 3) == "31, norm");
  const Json two = llama_8b().json({"--gpus", "10GiB,79GiB", "--device-map", "sequential"});
  CHECK(two.find("cuts")->items().at(0).string().starts_with("sequential gives cuda:0"));
}

TEST_CASE("a map by names goes where it says, and says so") {
  const Json plan = llama_8b().json(
      {"--gpus", "2x80GiB", "--device-map", R"({"": "cuda:1", "model.embed_tokens": 0, "model.layers.1": 0})"});
  CHECK(modules_of(plan, 0) == "embed_tokens, 1");
  CHECK(modules_of(plan, 1) == "0, 2-31, norm");
  CHECK(plan.find("cuts")->items().at(1).string() == "the map sends model.layers.1 to cuda:0");
  CHECK(plan.find("placement")->find("model.layers.1")->find("device")->string() == "cuda:0");
}

TEST_CASE("what does not fit is streamed, with the room it needs") {
  const Json plan = llama_8b().json({"--gpus", "80GiB", "--max-memory", "0:6GB,cpu:100GB"});
  CHECK(plan.find("num_waves")->integer() == 1);
  CHECK(bytes_of(plan, "stream_bytes") == 2 * 436224000);
  CHECK(bytes_of(plan, "limit_bytes") == 6'000'000'000);
  CHECK(plan.find("smallest_number_of_devices")->integer() == 6);
  const Json by_map = llama_8b().json({"--gpus", "80GiB", "--device-map", R"({"": 0, "model.layers": "cpu"})"});
  CHECK(by_map.find("streamed_host_bytes")->integer() == 32 * std::int64_t{436224000});
}

TEST_CASE("a machine without a GPU plans for its processors") {
  const Json plan = llama_8b().json({"--device-map", "cpu:0,cpu:1", "--max-memory", "10GB,10GB", "--replicas", "1"});
  CHECK(plan.find("devices")->items().at(1).find("name")->string() == "cpu:1");
}

TEST_CASE("single plans for one layer at a time") {
  const Json plan = llama_8b().json({"--gpus", "80GiB", "--test-type", "single", "--layers", "0-7"});
  CHECK(bytes_of(plan, "weights_bytes") == 436224000);
}

TEST_CASE("what cannot be planned is one clear error, before anything is loaded") {
  const HollowModel& model = llama_8b();
  refused(model, {"--gpus", "80GiB", "--device-map", "balnced"}, "did you mean balanced?");
  refused(model, {"--gpus", "80GiB", "--device-map", R"({"model.layer": 0})"}, "did you mean model.layers");
  refused(model, {"--gpus", "80GiB", "--device-map", R"({"model.layers": 0})"}, "leaves out model.embed_tokens");
  refused(model, {"--gpus", "2x80GiB", "--device-map", "cuda:2"},
          "cuda:2 is not there; the machine has cuda:0, cuda:1");
  refused(model, {"--gpus", "2x80GiB", "--max-memory", "3:1GB"}, "cuda:3 is not there");
  refused(model, {"--gpus", "2x80GiB", "--max-memory", "40"}, "\"40\" has no unit");
  refused(model, {"--gpus", "80GiB", "--max-memory", "2GB"}, "raise --max-memory to ");
  refused(model, {"--gpus", "0x80GiB"}, "is no number of GPUs and size of each");
  refused(model, {"--gpus", "8x"}, "is not a size");
  refused(model, {"--gpus", "8GiB", "--device-map", "cuda:0"}, "does not fit on cuda:0: needs 436 MB, ");
}

TEST_CASE("the smallest budget that an error names is one that works") {
  const test::Finished finished = llama_8b().plan({"--gpus", "80GiB", "--max-memory", "2GB"});
  const std::string before = "raise --max-memory to ";
  const std::size_t at = finished.err.find(before) + before.size();
  const std::string size = finished.err.substr(at, finished.err.find(',', at) - at);
  CHECK(llama_8b().plan({"--gpus", "80GiB", "--max-memory", size}).exit_code == 0);
}

TEST_CASE("an output that the disk has no space for is the answer no") {
  const test::TempFolder out;
  const std::vector<std::string> arguments = {"--gpus", "80GiB", "--random-tokens", "20000x1024"};
  const test::Finished finished = llama_8b().plan(arguments, (out.path() / "5.7-TB.h5").string());
  CHECK(finished.exit_code == 1);
  CHECK(finished.out.find("output: 5.7") != std::string::npos);
  CHECK(finished.err.find("no space: the output takes 5.7") != std::string::npos);
  CHECK(llama_8b().plan(arguments).exit_code == 0);  // --output none
}

TEST_CASE("DeepSeek-V3 is planned with every parameter it has") {
  const HollowModel model(R"({"model_type": "deepseek_v3", "torch_dtype": "bfloat16", "rope_scaling": {"type": "yarn",
      "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}})");
  CHECK(model.num_tensors() == 3 + 3 * 12 + 58 * (9 + 2 + 3 + 3 * 256));
  const Json plan = model.json({"--gpus", "20x141GiB", "--random-tokens", "8x64"});
  std::int64_t bytes = 0;
  for (const Json& device : plan.find("devices")->items()) bytes += device.find("weights_bytes")->integer();
  // 671,026,419,200 parameters as published; the head, 129,280 x 7,168 of them, does not run.
  CHECK(bytes == 2 * (INT64_C(671026419200) - 129280 * 7168));
}

TEST_CASE("each product of an expert costs something however few its rows, so that experts get large batches") {
  const HollowModel model(kTwoLayersOfMiniMaxM2);
  const auto seconds = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--gpus", "80GiB", "--random-tokens", "256x1024"});
    return model.json(more).find("run_seconds")->number();
  };
  const double products = 2 * 2 * 256 * 18e-6;  // of a micro-batch
  const double of_16 = seconds({"--tokens-per-batch", "16384"}), of_4 = seconds({"--tokens-per-batch", "65536"});
  CHECK(of_16 - of_4 == doctest::Approx(12 * products).epsilon(0.01));
  CHECK(seconds({}) == of_4);
}

TEST_CASE("of few tokens plan counts the experts that they choose where weights do not stay") {
  const HollowModel model(kTwoLayersOfMiniMaxM2);
  const auto seconds = [&](std::vector<std::string> more, const char* name) {
    more.insert(more.end(), {"--gpus", "80GiB"});
    return model.json(more).find(name)->number();
  };
  const char* const streams = R"({"": "cuda:0", "model.layers.0": "disk", "model.layers.1": "disk"})";
  const double experts = 3.0 * 3072 * 1536 * 256, others = 2 * 3072 * (48 + 8) * 128 + 3072 * 256;  // of a layer
  const double of_32 = (experts * (1 - std::pow(31.0 / 32, 32)) + others) / (experts + others);     // 8 of 256 each
  const auto streamed = [&](const char* tokens) {
    return seconds({"--device-map", streams, "--random-tokens", tokens}, "run_seconds");
  };
  CHECK(streamed("1x32") / streamed("1x33") == doctest::Approx(of_32).epsilon(0.001));
  CHECK(streamed("2x33") == streamed("1x33"));
  const auto single = [&](const char* tokens) {
    return seconds({"--test-type", "single", "--random-hidden-states", tokens}, "load_seconds");
  };
  CHECK(single("1x32") / single("1x33") == doctest::Approx(of_32).epsilon(0.001));
  const auto resident = [&](const char* tokens) { return seconds({"--random-tokens", tokens}, "load_seconds"); };
  CHECK(resident("1x32") == resident("1x33"));
}

TEST_CASE("a checkpoint of 100,000 tensors is planned from its headers alone") {
  const HollowModel model(llama(11111, 512, 1024));
  CHECK(model.num_tensors() == 100'002);
  const auto start = std::chrono::steady_clock::now();
  const Json plan = model.json({"--gpus", "8x80GiB"});
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK(plan.find("devices")->items().size() >= 1);
  CHECK(seconds < 30);  // under 1 s on an idle machine: docs/placement.md
}

}  // namespace layerprobe
