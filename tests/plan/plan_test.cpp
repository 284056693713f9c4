#include "plan/plan.h"

#include <doctest/doctest.h>

#include "base/error.h"

namespace layerprobe::plan {
namespace {

model::ModelConfig three_layers() {
  return model::read_config(Json::parse(R"({"model_type": "llama", "vocab_size": 20, "hidden_size": 8,
      "intermediate_size": 6, "num_hidden_layers": 3, "num_attention_heads": 2})",
                                        "config.json"),
                            "config.json");
}

Prompts two_prompts() {
  Prompts prompts;
  prompts.input_ids = {1, 2, 3, 4, 5};
  prompts.cu_seqlens = {0, 3, 5};
  return prompts;
}

Plan plan_of(const Request& request) { return make_plan(three_layers(), Dtype::bf16, two_prompts(), request); }

std::vector<std::string> names(const Plan& plan) {
  std::vector<std::string> out;
  for (const store::Layout::Point& each : plan.points) out.push_back(each.point.name);
  return out;
}

using Names = std::vector<std::string>;
using Layers = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("extract-all keeps embedding, layers and norm, and never loads the head") {
  const Plan plan = plan_of({});
  CHECK(names(plan) == Names{"model.embed_tokens", "model.layers.0", "model.layers.1", "model.layers.2", "model.norm"});
  CHECK(plan.runs_norm);
  CHECK_FALSE(plan.runs_lm_head);
  CHECK(plan.rows.num_rows() == 5);
  CHECK(plan.top_k == 0);
}

TEST_CASE("layers behind the last one that is kept do not run") {
  const Plan plan = plan_of({.capture = {"model.layers.1.self_attn"}});
  CHECK(plan.layers == Layers{0, 1});
  CHECK_FALSE(plan.runs_norm);
  const Plan embedding = plan_of({.capture = {"model.embed_tokens"}});
  CHECK(embedding.layers.empty());
  CHECK(plan_of({.layers = "0"}).layers == Layers{0, 1, 2});  // the norm is kept
}

TEST_CASE("points of a decoder beside a vision tower have its module's name, and patterns may leave that out") {
  const auto config = model::read_config(Json::parse(R"({"model_type": "qwen3_vl", "text_config": {"hidden_size": 8,
      "vocab_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}})",
                                                     "config.json"),
                                         "config.json");
  const auto plan_of_vl = [&](const Request& request) {
    return make_plan(config, Dtype::bf16, two_prompts(), request);
  };
  const Plan all = plan_of_vl({});
  CHECK(names(all) == Names{"model.language_model.embed_tokens", "model.language_model.layers.0",
                            "model.language_model.layers.1", "model.language_model.norm"});
  CHECK(all.runs_norm);
  CHECK(all.find_block(1) == 2);
  CHECK_FALSE(all.find_block(2).has_value());
  for (const char* pattern : {"model.layers.0.mlp.**", "model.language_model.layers.0.mlp.**"}) {
    const Plan some = plan_of_vl({.capture = {pattern}});
    CHECK(some.layers == Layers{0});
    CHECK(some.points.front().point.name.starts_with("model.language_model.layers.0.mlp."));
    CHECK_FALSE(some.runs_norm);
  }
  CHECK(plan_of_vl({.capture = {"model.norm"}}).layers == Layers{0, 1});
}

TEST_CASE("full keeps norm and head of the last tokens, and statistics of the layers") {
  const Plan plan = plan_of({.test_type = TestType::full});
  CHECK(names(plan) == Names{"model.layers.0", "model.layers.1", "model.layers.2", "model.norm", "lm_head"});
  CHECK_FALSE(plan.points[0].stored);
  CHECK(plan.points[4].stored);
  CHECK(plan.points[4].point.width == 20);
  CHECK(plan.rows.position == std::vector<std::int32_t>{2, 1});
  CHECK(plan.top_k == 10);
}

TEST_CASE("means are f32 whatever the run's dtype") {
  const Plan plan = plan_of({.tokens = "mean"});
  CHECK(plan.keeps_mean);
  for (const store::Layout::Point& each : plan.points) CHECK(each.point.dtype == Dtype::f32);
}

TEST_CASE("multi stores what it was fed, unless the points are chosen") {
  const Request fed = {.test_type = TestType::multi, .layers = "1-2", .has_prompts = false};
  CHECK(names(plan_of(fed)) == Names{"model.layers.1:input", "model.layers.1", "model.layers.2"});
  Request chosen = fed;
  chosen.capture = {"model.layers.2"};
  CHECK(names(plan_of(chosen)) == Names{"model.layers.2"});
  CHECK_FALSE(plan_of(fed).runs_embedding);
}

TEST_CASE("what a test type cannot do is refused with what can") {
  CHECK_THROWS_WITH_AS(plan_of({.has_prompts = false}), doctest::Contains("use --test-type single or multi"), Error);
  CHECK_THROWS_WITH_AS(plan_of({.test_type = TestType::single}), doctest::Contains("use --test-type multi"), Error);
  CHECK_THROWS_WITH_AS(plan_of({.test_type = TestType::multi, .layers = "0,2"}), doctest::Contains("--layers 0-2"),
                       Error);
  CHECK_THROWS_WITH_AS(plan_of({.layers = "0", .capture = {"model.layers.2"}}), doctest::Contains("nothing is kept"),
                       Error);
  CHECK_THROWS_WITH_AS(parse_test_type("all"), doctest::Contains("choose single, multi, full or extract-all"), Error);
}

}  // namespace layerprobe::plan
