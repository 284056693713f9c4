#include <doctest/doctest.h>

#include <limits>

#include "base/json.h"
#include "tests/compare/sample.h"
#include "tests/store/sample.h"
#include "tests/support/model_files.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

constexpr const char* kConfig =
    R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4, "num_hidden_layers": 2})";

/// Two layers of one kind, an embedding and a norm; BF16 and F32.
void write_model(const test::TempFolder& folder) {
  folder.write("config.json", kConfig);
  folder.write(
      "model.safetensors",
      test::safetensors(R"({"model.norm.weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
                        R"("model.layers.1.mlp.up_proj.weight":{"dtype":"BF16","shape":[2,4],"data_offsets":[16,32]},)"
                        R"("model.layers.0.mlp.up_proj.weight":{"dtype":"BF16","shape":[2,4],"data_offsets":[32,48]},)"
                        R"("model.embed_tokens.weight":{"dtype":"BF16","shape":[300,4],"data_offsets":[48,2448]}})",
                        std::string(2448, '\0')));
}

}  // namespace

TEST_CASE("inspect shows a captured run: attributes, prompts, points, statistics, ranked tokens") {
  const test::TempFolder folder;
  const std::filesystem::path path = folder / "run.h5";
  test::write_run(path, test::sample_layout());
  const test::Finished finished = test::run_layerprobe({"inspect", path.string()});
  CHECK(finished.exit_code == 0);
  CHECK(finished.err.empty());
  CAPTURE(finished.out);
  for (const char* part : {"run.h5: captured run, finished", "prompts: 3 of 1 to 3 tokens, 6 in all, with their text",
                           "rows: 4 of each point: some of the tokens", "model_hash", "abc", "end_time",
                           "model.layers.0.mlp:topk_indices", "int32", "\"<100>\" 2.5", "p1 t0"}) {
    CAPTURE(part);
    CHECK(finished.out.find(part) != std::string::npos);
  }
  CHECK(finished.out.find("first NaN or infinity: model.embed_tokens, p1 t0") != std::string::npos);
}

TEST_CASE("inspect shows how complete a partial file is") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  run.incomplete = {{1, 2}, {2, 0}, {2, 1}, {2, 2}};
  const std::string path = test::write_file(folder / "run.h5", run);
  const test::Finished finished = test::run_layerprobe({"inspect", path});
  CHECK(finished.exit_code == 0);
  CAPTURE(finished.out);
  CHECK(finished.out.find("captured run, partial") != std::string::npos);
  CHECK(finished.out.find("complete: 2.78 kB of 3.74 kB (74.4%)") != std::string::npos);
  CHECK(finished.out.find("2/3") != std::string::npos);
  CHECK(finished.out.find("0/3") != std::string::npos);
}

TEST_CASE("inspect --json of a captured run is one document") {
  const test::TempFolder folder;
  const std::filesystem::path path = folder / "run.h5";
  test::write_run(path, test::sample_layout());
  const test::Finished finished = test::run_layerprobe({"inspect", "--json", path.string()});
  CHECK(finished.exit_code == 0);
  const Json json = Json::parse(finished.out, "stdout");
  CHECK(json.find("is_finished")->boolean());
  CHECK(json.find("attributes")->find("seed")->integer() == 7);
  CHECK(json.find("num_tokens")->integer() == 6);
  CHECK(json.find("top_k")->integer() == 2);
  REQUIRE(json.find("points")->items().size() == 6);
  const Json& layer = json.find("points")->items()[3];
  CHECK(layer.find("name")->string() == "model.layers.1");
  CHECK(layer.find("stored")->boolean() == false);
  CHECK(layer.find("num_complete_prompts")->integer() == 3);
  CHECK(layer.find("semantics")->string() == "residual_after_block");
  CHECK(layer.find("statistics")->find("nan_count")->integer() == 1);
  CHECK(layer.find("statistics")->find("first_non_finite")->find("prompt")->integer() == 1);
  CHECK(layer.find("statistics")->find("abs_max")->number() == 33);
  CHECK(layer.find("statistics")->find("abs_max_at")->find("channel")->integer() == 1);
}

TEST_CASE("inspect knows a captured run by its first bytes, whatever its name") {
  const test::TempFolder folder;
  test::write_file(folder / "run.h5", test::sample_run());
  std::filesystem::rename(folder / "run.h5", folder / "renamed");
  CHECK(test::run_layerprobe({"inspect", (folder / "renamed").string()}).out.find("captured run") != std::string::npos);
}

TEST_CASE("inspect shows a model: config, storage, layers of one kind in one line") {
  const test::TempFolder folder;
  write_model(folder);
  const test::Finished finished = test::run_layerprobe({"inspect", folder.path().string()});
  CHECK(finished.exit_code == 0);
  CHECK(finished.err.empty());
  CAPTURE(finished.out);
  for (const char* part : {": safetensors, 1 file, 1,220 parameters in 2.45 kB", "num_hidden_layers  2",
                           "model.layers.0 to 1, each", "BF16 x 1", "tokenizer: none", "can be run: no: "}) {
    CAPTURE(part);
    CHECK(finished.out.find(part) != std::string::npos);
  }
  CHECK(finished.out.find("up_proj") == std::string::npos);
  const test::Finished tensors = test::run_layerprobe({"inspect", folder.path().string(), "--tensors"});
  const std::size_t embedding = tensors.out.find("model.embed_tokens.weight");
  const std::size_t layer = tensors.out.find("model.layers.1.mlp.up_proj.weight");
  CHECK(embedding < layer);
  CHECK(layer < tensors.out.find("model.norm.weight"));
  CHECK(tensors.out.find("[300, 4]") != std::string::npos);
}

TEST_CASE("inspect says whether a model can be run, and what of it would be left aside") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  const test::Finished finished = test::run_layerprobe({"inspect", folder.path().string()});
  CAPTURE(finished.out);
  CHECK(finished.out.find("can be run: yes\n") != std::string::npos);
  folder.write("config.json", R"({"model_type": "mamba"})");
  const test::Finished other = test::run_layerprobe({"inspect", folder.path().string()});
  CHECK(other.exit_code == 0);
  CHECK(other.out.find("can be run: no: ") != std::string::npos);
  CHECK(other.out.find("mamba") != std::string::npos);
}

TEST_CASE("inspect --json of a model is one document") {
  const test::TempFolder folder;
  write_model(folder);
  const test::Finished finished = test::run_layerprobe({"inspect", "--json", "--tensors", folder.path().string()});
  CHECK(finished.exit_code == 0);
  const Json json = Json::parse(finished.out, "stdout");
  CHECK(json.find("config")->find("hidden_size")->integer() == 4);
  CHECK(json.find("num_parameters")->integer() == 1220);
  CHECK(json.find("by_storage")->items().size() == 2);
  CHECK(json.find("groups")->items().size() == 4);
  CHECK(json.find("tensors")->items()[0].find("shape")->items()[0].integer() == 300);
}

TEST_CASE("inspect refuses what is neither with exit status 2") {
  const test::TempFolder folder;
  test::write_all(folder / "text.h5", "no HDF5 file");
  test::SampleRun partial = test::sample_run();
  partial.incomplete = {{0, 0}};
  test::write_file(folder / "unfinished.h5", partial);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {(folder / "text.h5").string(), "text.h5"},
      {(folder / "none.h5").string(), "no such file"},
      {(folder / "unfinished.h5").string(), "has not finished"},
      {folder.path().string(), "holds no .safetensors file"},
      {(folder / "no-such-model").string(), "no-such-model"},
  };
  for (const auto& [what, message] : cases) {
    CAPTURE(what);
    const test::Finished finished = test::run_layerprobe({"inspect", what});
    CAPTURE(finished.err);
    CHECK(finished.exit_code == 2);
    CHECK(finished.out.empty());
    CHECK(finished.err.starts_with("error: "));
    CHECK(finished.err.find(message) != std::string::npos);
    CHECK(finished.err.find("  help: ") != std::string::npos);
  }
}

}  // namespace layerprobe
