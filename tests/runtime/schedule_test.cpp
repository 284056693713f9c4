#include "runtime/schedule.h"

#include <doctest/doctest.h>

#include <set>
#include <utility>

namespace layerprobe::runtime {
namespace {

/// extract-all of three layers, all tokens kept, over prompts of these lengths.
struct Run {
  plan::Plan plan;
  Prompts prompts;

  explicit Run(std::initializer_list<std::int64_t> lengths, std::int64_t tokens_per_batch) {
    prompts.cu_seqlens.push_back(0);
    for (const std::int64_t length : lengths) prompts.cu_seqlens.push_back(prompts.cu_seqlens.back() + length);
    plan.layers = {0, 1, 2};
    plan.runs_embedding = plan.runs_norm = true;
    plan.tokens_per_batch = tokens_per_batch;
    for (const char* name :
         {"model.embed_tokens", "model.layers.0", "model.layers.1", "model.layers.2", "model.norm"}) {
      plan.points.push_back({.point = {name, Dtype::bf16, 8}, .stored = true});
    }
    plan.rows = plan::select_rows(plan::parse_tokens("all"), prompts);
  }

  std::vector<Task> tasks(const std::set<std::pair<std::size_t, std::int64_t>>& complete) const {
    return schedule(plan, prompts, [&](std::size_t point, std::int64_t prompt) {
      return complete.contains({point, prompt});
    });
  }
};

using Bounds = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("neighbouring prompts are packed up to the batch size and a longer one goes by itself") {
  const std::vector<Task> tasks = Run({3, 3, 5, 20, 1}, 8).tasks({});
  REQUIRE(tasks.size() == 4);
  CHECK(tasks[0].batch.cu_seqlens == Bounds{0, 3, 6});
  CHECK(tasks[1].batch.cu_seqlens == Bounds{0, 5});
  CHECK(tasks[2].batch.cu_seqlens == Bounds{0, 20});
  CHECK(tasks[3].batch.first_prompt == 4);
}

TEST_CASE("finished prompts are left out and a batch holds neighbours only") {
  std::set<std::pair<std::size_t, std::int64_t>> complete;
  for (std::size_t point = 0; point < 5; ++point) complete.insert({point, 1});
  const std::vector<Task> tasks = Run({2, 2, 2}, 100).tasks(complete);
  REQUIRE(tasks.size() == 2);
  CHECK(tasks[0].batch.cu_seqlens == Bounds{0, 2});
  CHECK(tasks[1].batch.first_prompt == 2);
}

TEST_CASE("a prompt goes on behind the last layer before which nothing is missing") {
  const Run run({2, 2, 2}, 100);
  const std::vector<Task> tasks = run.tasks({{0, 0},
                                             {1, 0},
                                             {2, 0},  // up to layer 1
                                             {0, 1},
                                             {2, 1},  // layer 0 is missing
                                             {0, 2},
                                             {1, 2},
                                             {2, 2},
                                             {3, 2}});
  REQUIRE(tasks.size() == 3);
  CHECK(tasks[0].from_capture);
  CHECK(tasks[0].first_layer == 2);
  CHECK_FALSE(tasks[1].from_capture);
  CHECK(tasks[2].from_capture);
  CHECK(tasks[2].first_layer == 3);  // only the norm is left
}

TEST_CASE("where not every token was kept a prompt starts at the embedding") {
  Run run({2, 2}, 100);
  run.plan.rows = plan::select_rows(plan::parse_tokens("last"), run.prompts);
  const std::vector<Task> tasks = run.tasks({{0, 0}, {1, 0}});
  REQUIRE(tasks.size() == 1);
  CHECK_FALSE(tasks[0].from_capture);
}

}  // namespace layerprobe::runtime
