// Runs with one thing wrong each: does compare name the layer, and what is wrong? `layerprobe_tests
// --test-case='*planted*' --success` prints the table of docs/compare.md.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/float16.h"
#include "base/text.h"
#include "cli/blame.h"
#include "compare/compare.h"
#include "runtime/session.h"
#include "tests/compare/sample.h"
#include "tests/store/sample.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

using compare::Kind;
using Kinds = std::set<Kind>;

constexpr int kLayers = 6;
constexpr int kHidden = 64;
constexpr int kHeadDim = 16;

std::string config(const std::string& changed = "", const std::string& to = "") {
  std::string out = R"({"model_type": "qwen3", "vocab_size": 61, "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "attention_bias": true,
  "torch_dtype": "float32", "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000,
  "use_sliding_window": false, "tie_word_embeddings": false})";
  if (!changed.empty()) out.replace(out.find(changed), changed.size(), to);
  return out;
}

/// MiniMax-M2's: half of each head is rotated, a bias chooses among the experts.
std::string minimax(int rotary_dim = 8) {
  return text(R"({"model_type": "minimax_m2", "vocab_size": 61, "hidden_size": 64, "intermediate_size": 64,
  "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
  "torch_dtype": "float32", "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000,
  "num_local_experts": 8, "num_experts_per_tok": 3, "tie_word_embeddings": false, "rotary_dim": )",
              rotary_dim, "}");
}

std::string qwen3_moe(const char* norm_topk_prob) {
  return text(R"({"model_type": "qwen3_moe", "vocab_size": 61, "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
  "torch_dtype": "float32", "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000,
  "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "decoder_sparse_step": 1,
  "mlp_only_layers": [], "tie_word_embeddings": false, "norm_topk_prob": )",
              norm_topk_prob, "}");
}

using Weights = std::function<void(const std::string& name, std::vector<float>& values)>;

/// Livelier than write_tiny_model's: the layers' shares of the residual stream are alike.
void lively(const std::string& name, std::vector<float>& values) {
  if (name.ends_with("embed_tokens.weight")) {
    for (float& value : values) value *= 5;
  }
  if (name.ends_with(".e_score_correction_bias")) {
    for (float& value : values) value = 3 * (value - 1);
  }
  if (name.ends_with(".bias")) {
    for (float& value : values) value -= 1;
  }
}

struct Engine {
  test::TempFolder folder{test::memory_folder()};
  bool has_experts = false;

  Engine(const std::string& config_text, const Weights& change)
      : has_experts(config_text.find("experts") != std::string::npos) {
    test::write_tiny_model(folder, config_text, [&](const std::string& name, std::vector<float>& values) {
      lively(name, values);
      if (change) change(name, values);
    });
  }
  std::string run(const std::string& name, const std::string& dtype, const std::string& hidden_states = "",
                  const std::string& layers = "") const {
    runtime::RunOptions options;
    options.model = folder.path().string();
    options.request.capture = {"model.layers.*:input",
                               "model.layers.*",
                               "model.layers.*.*layernorm",
                               "model.layers.*.self_attn.*",
                               "model.layers.*.self_attn.o_proj:input",
                               "model.layers.*.mlp.*"};
    if (has_experts) {
      options.request.capture.insert(
          options.request.capture.end(),
          {"model.layers.*.mlp", "model.layers.*.mlp:topk_indices", "model.layers.*.mlp:topk_weights"});
    } else {
      options.request.capture.emplace_back("model.layers.*.mlp.down_proj:input");
    }
    if (hidden_states.empty()) {
      options.request.capture.insert(options.request.capture.end(), {"model.embed_tokens", "model.norm"});
    }
    options.dtype = dtype;
    options.device_map = "cpu";
    options.output = (folder / name.c_str()).string();
    options.if_exists = store::Writer::IfExists::overwrite;
    if (hidden_states.empty()) {
      options.input.random_tokens = "8x12:3";
    } else {
      options.request.test_type = plan::TestType::multi;
      options.request.layers = layers;
      options.input.hidden_states_file = hidden_states;
    }
    runtime::run(options, {});
    return options.output;
  }
};

/// A captured file, held in memory.
test::SampleRun loaded(const std::string& path) {
  const store::Reader reader(path);
  test::SampleRun run;
  run.layout.prompts = reader.prompts();
  run.layout.rows = reader.rows();
  const auto dtype = reader.attributes().find("dtype");
  if (dtype != reader.attributes().end()) run.layout.identity["dtype"] = dtype->second;
  for (std::size_t i = 0; i < reader.points().size(); ++i) {
    if (!reader.points()[i].stored) continue;
    const ProbePoint& point = reader.points()[i].point;
    run.layout.points.push_back({.point = point});
    const std::int64_t rows = reader.rows().num_rows();
    std::vector<std::byte> bytes(static_cast<std::size_t>(rows * point.width) * size_of(point.dtype));
    reader.read_rows(i, 0, rows, bytes);
    std::vector<double> values(static_cast<std::size_t>(rows * point.width));
    compare::row_kernels().front().widen(point.dtype, bytes.data(), rows * point.width, values.data());
    run.values.push_back(std::move(values));
  }
  return run;
}

std::vector<double>& values_of(test::SampleRun& run, const std::string& name) { return run.values[run.point(name)]; }

std::string layer(int number, const std::string& rest = "") { return text("model.layers.", number, rest); }

Weights scaled(const std::string& name, float factor) {
  return [=](const std::string& each, std::vector<float>& values) {
    if (each == name) std::ranges::for_each(values, [&](float& value) { value *= factor; });
  };
}

Weights perturbed(const std::string& name, float share) {
  return [=](const std::string& each, std::vector<float>& values) {
    std::uint32_t x = 12345;
    if (each != name) return;
    for (float& value : values) {
      x = x * 1664525u + 1013904223u;
      value += share * 0.2f * (static_cast<float>(x >> 8) / 8388608.0f - 1.0f);
    }
  };
}

Weights filled(const std::string& name, float with) {
  return [=](const std::string& each, std::vector<float>& values) {
    if (each == name) std::ranges::fill(values, with);
  };
}

/// Swaps two blocks of `rows` rows of a matrix that is `width` wide.
Weights rows_swapped(const std::string& name, int a, int b, int rows, int width) {
  return [=](const std::string& each, std::vector<float>& values) {
    if (each != name) return;
    const auto at = [&](int row) { return values.begin() + row * width; };
    std::swap_ranges(at(a), at(a + rows), at(b));
  };
}

Weights transposed(const std::string& name, int width) {
  return [=](const std::string& each, std::vector<float>& values) {
    if (each != name) return;
    const std::vector<float> was = values;
    for (int i = 0; i < width; ++i) {
      for (int j = 0; j < width; ++j) {
        values[static_cast<std::size_t>(i * width + j)] = was[static_cast<std::size_t>(j * width + i)];
      }
    }
  };
}

/// Exchanges the weights of two experts.
Weights experts_swapped(const std::string& config_text, const std::string& experts, int a, int b) {
  const auto kept = std::make_shared<std::map<std::string, std::vector<float>>>();
  const test::TempFolder folder(test::memory_folder());
  test::write_tiny_model(folder, config_text, [&](const std::string& name, std::vector<float>& values) {
    if (name.starts_with(experts)) (*kept)[name] = values;
  });
  return [=](const std::string& name, std::vector<float>& values) {
    for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
      const std::string prefix = text(experts, from, ".");
      if (name.starts_with(prefix)) values = kept->at(text(experts, to, ".", name.substr(prefix.size())));
    }
  };
}

using Edit = std::function<void(test::SampleRun& run)>;

/// Each prompt's rows of the points that `is_it` takes move down by one.
Edit shifted(const std::function<bool(const std::string&)>& is_it) {
  return [=](test::SampleRun& run) {
    for (std::size_t i = 0; i < run.values.size(); ++i) {
      if (!is_it(run.layout.points[i].point.name)) continue;
      const std::int64_t width = run.layout.points[i].point.width;
      const std::vector<double> was = run.values[i];
      for (std::int64_t row = 0; row < run.layout.rows.num_rows(); ++row) {
        if (run.layout.rows.position[static_cast<std::size_t>(row)] == 0) continue;
        std::copy_n(was.begin() + (row - 1) * width, width, run.values[i].begin() + row * width);
      }
    }
  };
}

struct Bug {
  std::string name;
  int layer;     // where it begins; -1: outside the layers
  Kinds kinds;   // what it may be called, with every point captured
  Kinds coarse;  // with the layers' outputs alone
  std::string config_text = {};
  Weights weights = {};
  Edit edit = {};                 // of the captured file
  std::string one_layer = {};     // config that only `layer` runs with
  std::string dtype = "float32";  // of the candidate
  Weights both = {};              // of the reference's weights too
  std::string point = {};         // begins of the name, with every point captured
  Edit both_edit = {};
  std::string reference_config = {};  // of both files
};

const std::set<Kind> kOther = {Kind::values};

std::vector<Bug> bugs() {
  const std::string q = ".self_attn.q_proj.weight", k = ".self_attn.k_proj.weight";
  std::vector<Bug> out;
  const auto add = [&](Bug bug) { out.push_back(std::move(bug)); };
  add({.name = "q_proj perturbed by 1e-2",
       .layer = 3,
       .kinds = kOther,
       .coarse = {Kind::attention, Kind::values},
       .weights = perturbed(layer(3, q), 1e-2f),
       .point = ".self_attn.q_proj"});
  add({.name = "down_proj perturbed by 1e-2",
       .layer = 2,
       .kinds = kOther,
       .coarse = kOther,
       .weights = perturbed(layer(2, ".mlp.down_proj.weight"), 1e-2f),
       .point = ".mlp"});
  add({.name = "rope_theta wrong in one layer",
       .layer = 3,
       .kinds = {Kind::attention},
       .coarse = {Kind::attention},
       .one_layer = config("10000", "500000"),
       .point = ".self_attn.o_proj:input"});
  add({.name = "rope_theta wrong everywhere",
       .layer = 0,
       .kinds = {Kind::attention},
       .coarse = {Kind::attention},
       .config_text = config("10000", "100"),
       .point = ".self_attn.o_proj:input"});
  add({.name = "sliding window where there is none",
       .layer = 0,
       .kinds = {Kind::attention},
       .coarse = {Kind::attention},
       .config_text = config("\"use_sliding_window\": false",
                             "\"use_sliding_window\": true, \"sliding_window\": 3, \"max_window_layers\": 0"),
       .point = ".self_attn.o_proj:input"});
  add({.name = "input_layernorm's weight skipped",
       .layer = 2,
       .kinds = {Kind::channel_scale},
       .coarse = kOther,
       .weights = filled(layer(2, ".input_layernorm.weight"), 1),
       .point = ".input_layernorm"});
  add({.name = "post_attention_layernorm's weight skipped",
       .layer = 4,
       .kinds = {Kind::channel_scale},
       .coarse = kOther,
       .weights = filled(layer(4, ".post_attention_layernorm.weight"), 1),
       .point = ".post_attention_layernorm"});
  add({.name = "q_norm's weight skipped",
       .layer = 3,
       .kinds = {Kind::channel_scale},
       .coarse = {Kind::attention},
       .weights = filled(layer(3, ".self_attn.q_norm.weight"), 1),
       .point = ".self_attn.q_norm"});
  add({.name = "final norm's weight skipped",
       .layer = -1,
       .kinds = {Kind::channel_scale},
       .coarse = {Kind::channel_scale},
       .weights = filled("model.norm.weight", 1)});
  add({.name = "rms_norm_eps 1e-1 for 1e-5",
       .layer = 0,
       .kinds = {Kind::token_scale, Kind::scale},
       .coarse = kOther,
       .config_text = config("1e-5", "1e-1"),
       .point = ".input_layernorm"});
  add({.name = "two q heads swapped",
       .layer = 3,
       .kinds = {Kind::channel_order},
       .coarse = {Kind::attention},
       .weights = rows_swapped(layer(3, q), 0, kHeadDim, kHeadDim, kHidden),
       .point = ".self_attn.q_proj"});
  add({.name = "two k heads swapped",
       .layer = 1,
       .kinds = {Kind::channel_order},
       .coarse = {Kind::attention},
       .weights = rows_swapped(layer(1, k), 0, kHeadDim, kHeadDim, kHidden),
       .point = ".self_attn.k_proj"});
  add({.name = "halves of a q head swapped (rotary layout)",
       .layer = 2,
       .kinds = {Kind::channel_order},
       .coarse = {Kind::attention},
       .weights = rows_swapped(layer(2, q), 0, kHeadDim / 2, kHeadDim / 2, kHidden),
       .point = ".self_attn.q_proj"});
  add({.name = "q_proj's bias dropped",
       .layer = 3,
       .kinds = {Kind::channel_offset},
       .coarse = {Kind::attention, Kind::values},
       .weights = filled(layer(3, ".self_attn.q_proj.bias"), 0),
       .point = ".self_attn.q_proj"});
  add({.name = "v_proj's bias dropped",
       .layer = 4,
       .kinds = {Kind::channel_offset},
       .coarse = {Kind::channel_offset, Kind::values},
       .weights = filled(layer(4, ".self_attn.v_proj.bias"), 0),
       .point = ".self_attn.v_proj"});
  add({.name = "o_proj transposed",
       .layer = 2,
       .kinds = kOther,
       .coarse = kOther,
       .weights = transposed(layer(2, ".self_attn.o_proj.weight"), kHidden),
       .point = ".self_attn.o_proj"});
  add({.name = "down_proj scaled by 1.01",
       .layer = 3,
       .kinds = {Kind::scale},
       .coarse = kOther,
       .weights = scaled(layer(3, ".mlp.down_proj.weight"), 1.01f),
       .point = ".mlp.down_proj"});
  add({.name = "queries scaled by 1.1 (attention scale)",
       .layer = 3,
       .kinds = {Kind::scale},
       .coarse = {Kind::attention},
       .weights = scaled(layer(3, ".self_attn.q_norm.weight"), 1.1f),
       .point = ".self_attn.q_norm"});
  add({.name = "embedding scaled by 8",
       .layer = -1,
       .kinds = {Kind::scale},
       .coarse = {Kind::scale},
       .weights = scaled("model.embed_tokens.weight", 8)});
  add({.name = "one row of the embedding zeroed",
       .layer = -1,
       .kinds = {Kind::few_tokens},
       .coarse = {Kind::few_tokens},
       .weights = [](const std::string& name, std::vector<float>& values) {
         if (name == "model.embed_tokens.weight") std::fill_n(values.begin() + 7 * kHidden, kHidden, 0.0f);
       }});
  add({.name = "a row of down_proj zeroed",
       .layer = 4,
       .kinds = {Kind::few_channels},
       .coarse = {Kind::few_channels},
       .weights = [](const std::string& name, std::vector<float>& values) {
         if (name == layer(4, ".mlp.down_proj.weight")) std::fill_n(values.begin() + 9 * 96, 96, 0.0f);
       }});
  add({.name = "gate_proj and up_proj swapped",
       .layer = 1,
       .kinds = kOther,
       .coarse = kOther,
       .weights =
           [kept = std::make_shared<std::vector<float>>()](const std::string& name, std::vector<float>& values) {
             if (name == layer(1, ".mlp.gate_proj.weight")) *kept = values;
             if (name == layer(1, ".mlp.up_proj.weight")) values = *kept;  // both are gate_proj's
           },
       .point = ".mlp.up_proj"});
  add({.name = "a layer left out",
       .layer = 3,
       .kinds = {Kind::scale, Kind::values},
       .coarse = {Kind::scale},
       .edit = {},
       .dtype = "skip 3"});
  add({.name = "a layer's weights are the next one's",
       .layer = 2,
       .kinds = {Kind::channel_scale},
       .coarse = kOther,
       .weights = [kept = std::make_shared<int>(0)](const std::string& name, std::vector<float>& values) {
         if (!name.starts_with(layer(2, "."))) return;
         std::uint64_t seed = 7000 + static_cast<std::uint64_t>(++*kept);
         std::vector<double> normal(values.size());
         runtime::random_normal(seed, 0, normal);
         const bool is_norm = name.ends_with("norm.weight");
         for (std::size_t i = 0; i < values.size(); ++i) {
           values[i] = static_cast<float>(is_norm ? 1 + 0.1 * normal[i] : 0.2 * normal[i]);
         }
       }});
  add({.name = "layers one too far",
       .layer = 0,
       .kinds = {Kind::layer_offset},
       .coarse = {Kind::layer_offset},
       .edit = [](test::SampleRun& run) {
         for (int i = kLayers - 1; i > 0; --i) values_of(run, layer(i)) = values_of(run, layer(i - 1));
         values_of(run, layer(0)) = values_of(run, "model.embed_tokens");
       }});
  add({.name = "layers one too near",
       .layer = 0,
       .kinds = {Kind::layer_offset},
       .coarse = {Kind::layer_offset},
       .edit = [](test::SampleRun& run) {
         for (int i = 0; i + 1 < kLayers; ++i) values_of(run, layer(i)) = values_of(run, layer(i + 1));
       }});
  add({.name = "last layer taken behind the norm",
       .layer = kLayers - 1,
       .kinds = {Kind::post_norm},
       .coarse = {Kind::post_norm},
       .edit = [](test::SampleRun& run) { values_of(run, layer(kLayers - 1)) = values_of(run, "model.norm"); }});
  add({.name = "final norm taken in front of it",
       .layer = -1,
       .kinds = {Kind::post_norm},
       .coarse = {Kind::post_norm},
       .edit = [](test::SampleRun& run) { values_of(run, "model.norm") = values_of(run, layer(kLayers - 1)); }});
  add({.name = "all tokens shifted by one",
       .layer = -1,
       .kinds = {Kind::token_shift},
       .coarse = {Kind::token_shift},
       .edit = shifted([](const std::string&) { return true; })});
  add({.name = "one layer's tokens shifted by one",
       .layer = 3,
       .kinds = {Kind::token_shift},
       .coarse = {Kind::token_shift},
       .edit = shifted([](const std::string& name) { return name == layer(3); })});
  add({.name = "a NaN in one layer",
       .layer = 2,
       .kinds = {Kind::non_finite},
       .coarse = {Kind::non_finite},
       .edit = [](test::SampleRun& run) { run.at(layer(2), 17, 5) = std::numeric_limits<double>::quiet_NaN(); }});
  add({.name = "float16 overflows to infinity",
       .layer = 3,
       .kinds = {Kind::overflow},
       .coarse = {Kind::overflow},
       .dtype = "float16",
       .both = scaled(layer(3, ".mlp.down_proj.weight"), 30000)});
  add({.name = "values stored in bfloat16 as float32",
       .layer = 0,
       .kinds = {Kind::precision},
       .coarse = {Kind::precision},
       .edit = [](test::SampleRun& run) {
         for (std::size_t i = 0; i < run.values.size(); ++i) {
           if (layer_of(run.layout.points[i].point.name) < 0) continue;
           for (double& value : run.values[i]) value = f32_of_bf16(bf16_of_f32(static_cast<float>(value)));
         }
       }});
  const auto add_moe = [&](Bug bug) {
    if (bug.reference_config.empty()) bug.reference_config = minimax();
    if (bug.config_text.empty()) bug.config_text = bug.reference_config;
    add(std::move(bug));
  };
  const std::string moe = ".block_sparse_moe.";
  add_moe({.name = "MiniMax-M2: rotary over the whole head (transformers 5.17)",
           .layer = 0,
           .kinds = {Kind::attention},
           .coarse = {Kind::attention},
           .config_text = minimax(16),
           .point = ".self_attn.o_proj:input"});
  add_moe({.name = "MiniMax-M2: router's bias dropped in one layer",
           .layer = 2,
           .kinds = {Kind::routing},
           .coarse = kOther,
           .weights = filled(layer(2, moe + "e_score_correction_bias"), 0),
           .point = ".mlp:topk_indices"});
  add_moe({.name = "MiniMax-M2: an expert's down_proj transposed",
           .layer = 3,
           .kinds = {Kind::expert},
           .coarse = {Kind::values, Kind::few_tokens},
           .weights = transposed(layer(3, moe + "experts.5.w2.weight"), kHidden),
           .point = ".mlp"});
  add_moe({.name = "MiniMax-M2: two experts exchanged",
           .layer = 2,
           .kinds = {Kind::expert},
           .coarse = {Kind::values, Kind::few_tokens},
           .weights = experts_swapped(minimax(), layer(2, moe + "experts."), 1, 6),
           .point = ".mlp"});
  add_moe({.name = "MiniMax-M2: two rows of the router exchanged",
           .layer = 4,
           .kinds = {Kind::channel_order},
           .coarse = kOther,
           .weights = rows_swapped(layer(4, moe + "gate.weight"), 1, 6, 1, kHidden),
           .point = ".mlp.gate"});
  add_moe({.name = "Qwen3-MoE: the experts' weights not normalised",
           .layer = 0,
           .kinds = {Kind::token_scale},
           .coarse = kOther,
           .config_text = qwen3_moe("false"),
           .point = ".mlp:topk_weights",
           .reference_config = qwen3_moe("true")});
  const Edit massive = [](test::SampleRun& run) {
    for (std::int64_t row = 0; row < run.layout.rows.num_rows(); ++row) run.at(layer(3), row, 11) = 1e5;
  };
  add({.name = "a massive channel hides 1e-3 in the others",
       .layer = 3,
       .kinds = {Kind::scale, Kind::values},
       .coarse = {Kind::scale, Kind::values},
       .edit =
           [=](test::SampleRun& run) {
             for (double& value : values_of(run, layer(3))) value *= value == 1e5 ? 1 : 1.001;
           },
       .both_edit = massive});
  return out;
}

test::SampleRun only_layers(test::SampleRun run) {
  for (std::size_t i = run.values.size(); i-- > 0;) {
    const std::string& name = run.layout.points[i].point.name;
    const std::string_view semantics = semantics_of(name);
    if (semantics != "residual_after_block" && semantics != "embedding" && semantics != "post_final_norm") {
      run.remove(std::string(name));
    }
  }
  return run;
}

/// The whole run of a model with one layer run by another engine, or left out.
test::SampleRun with_one_layer(const Engine& engine, const Engine* other, int number, const std::string& dtype) {
  const std::string whole = engine.run("whole.h5", dtype);
  test::SampleRun run = loaded(whole);
  std::string entered = whole;
  test::SampleRun one;
  if (other != nullptr) {
    entered = other->run("one.h5", dtype, whole, std::to_string(number));
    one = loaded(entered);
  } else {
    test::SampleRun skipped = only_layers(run);
    values_of(skipped, layer(number)) = values_of(skipped, layer(number - 1));
    values_of(run, layer(number)) = values_of(run, layer(number - 1));
    entered = test::write_file(engine.folder / "skipped.h5", skipped);
  }
  const test::SampleRun rest = loaded(engine.run("rest.h5", dtype, entered, text(number + 1, "-", kLayers - 1)));
  for (const test::SampleRun* part : {&std::as_const(one), &rest}) {
    for (std::size_t i = 0; i < part->values.size(); ++i)
      values_of(run, part->layout.points[i].point.name) = part->values[i];
  }
  run.remove("model.norm");
  return run;
}

struct Outcome {
  std::string point;
  Kind kind = Kind::values;
  bool diverged = false, layer_right = false, kind_right = false, point_right = true;
  std::string verdict;
};

Outcome outcome_of(const Bug& bug, const Kinds& kinds, const compare::Report& report) {
  Outcome out;
  out.verdict = compare::verdict(report);
  out.diverged = !report.agrees();
  if (!report.finding) return out;
  out.point = report.finding->point;
  out.kind = report.finding->kind;
  out.layer_right = layer_of(out.point) == bug.layer;
  out.kind_right = out.layer_right && kinds.contains(out.kind);
  out.point_right = bug.point.empty() || out.point.starts_with(layer(bug.layer) + bug.point);
  return out;
}

}  // namespace

TEST_CASE("planted bugs are found in the right layer and called what they are") {
  const test::TempFolder folder(test::memory_folder());
  std::map<std::string, std::array<int, 3>> right;  // by mode: layers, kinds, of how many
  const auto count = [&](const std::string& mode, const Outcome& outcome) {
    right[mode][0] += outcome.layer_right;
    right[mode][1] += outcome.kind_right;
    ++right[mode][2];
  };
  std::string table;
  const Engine right_one(config(), {});
  const test::SampleRun right_run = loaded(right_one.run("reference.h5", "float32"));
  const test::SampleRun right_noisy = loaded(right_one.run("baseline.h5", "bfloat16"));
  for (const Bug& bug : bugs()) {
    CAPTURE(bug.name);
    std::optional<Engine> own;
    const bool is_another = bug.both || !bug.reference_config.empty();
    if (is_another) own.emplace(bug.reference_config.empty() ? config() : bug.reference_config, bug.both);
    const Engine& good = own ? *own : right_one;
    const Engine bad(bug.config_text.empty() ? config() : bug.config_text,
                     [&](const std::string& name, std::vector<float>& values) {
                       if (bug.both) bug.both(name, values);
                       if (bug.weights) bug.weights(name, values);
                     });
    const bool skips = bug.dtype.starts_with("skip");
    const auto candidate_in = [&](const std::string& dtype) {
      test::SampleRun run;
      if (skips) {
        run = with_one_layer(good, nullptr, bug.layer, dtype);
      } else if (!bug.one_layer.empty()) {
        const Engine other(bug.one_layer, {});
        run = with_one_layer(good, &other, bug.layer, dtype);
      } else {
        run = loaded(bad.run("candidate.h5", dtype));
      }
      if (bug.both_edit) bug.both_edit(run);
      if (bug.edit) bug.edit(run);
      return run;
    };
    test::SampleRun reference = own ? loaded(own->run("reference.h5", "float32")) : right_run;
    if (bug.both_edit) bug.both_edit(reference);
    const test::SampleRun candidate = candidate_in(skips ? "float32" : bug.dtype);
    const auto compared = [&](const test::SampleRun& r, const test::SampleRun& c, const test::SampleRun* b = nullptr) {
      const store::Reader reference_file(test::write_file(folder / "r.h5", r));
      const store::Reader candidate_file(test::write_file(folder / "c.h5", c));
      if (b == nullptr) return compare::compare_runs(reference_file, candidate_file, {});
      const store::Reader baseline_file(test::write_file(folder / "b.h5", *b));
      return compare::compare_runs(reference_file, candidate_file, {}, {}, &baseline_file);
    };
    const Outcome all = outcome_of(bug, bug.kinds, compared(reference, candidate));
    const Outcome layers = outcome_of(bug, bug.coarse, compared(only_layers(reference), only_layers(candidate)));
    CAPTURE(all.verdict);
    CAPTURE(layers.verdict);
    CHECK(all.diverged);
    CHECK(all.layer_right);
    CHECK(all.point_right);
    CHECK(layers.layer_right);
    CHECK(all.kind_right);
    CHECK(layers.kind_right);
    count("all", all);
    count("layers", layers);
    table += text("| ", bug.name, " | `", all.point, "` | ", compare::name_of(all.kind), " | `", layers.point, "` | ",
                  compare::name_of(layers.kind), layers.kind_right ? "" : " (wrong)", " |");
    if (bug.dtype == "float32" && bug.name != "values stored in bfloat16 as float32") {
      test::SampleRun baseline = own ? loaded(own->run("baseline.h5", "bfloat16")) : right_noisy;
      if (bug.both_edit) bug.both_edit(baseline);
      const Outcome noisy = outcome_of(bug, bug.kinds, compared(reference, candidate_in("bfloat16"), &baseline));
      count("noisy", noisy);
      table += text(" ",
                    noisy.diverged ? (noisy.layer_right ? (noisy.kind_right ? "layer and kind" : "layer") : "wrong")
                                   : "within the noise",
                    " |");
    } else {
      table += " - |";
    }
    table += "\n";
  }
  if (doctest::getContextOptions()->success) {
    std::cout << table;
    for (const auto& [mode, counts] : right) {
      std::cout << mode << ": layers " << counts[0] << ", kinds " << counts[1] << ", of " << counts[2] << "\n";
    }
  }
  CHECK(right["all"][2] >= 20);
  CHECK(right["noisy"][1] >= right["noisy"][2] - 6);  // what is smaller than bfloat16's own noise goes under
}

TEST_CASE("blame tells the layer at fault from those that inherit, below the noise of bfloat16 too") {
  const test::TempFolder folder(test::memory_folder());
  const Engine good(config(), {});
  const Engine bad(config(), perturbed(layer(3, ".self_attn.q_proj.weight"), 1e-2f));
  const store::Reader reference(good.run("reference.h5", "float32"));
  const auto blamed = [&](const Engine& engine, const std::string& dtype, const std::string& blame_dtype) {
    const store::Reader candidate(engine.run("candidate.h5", dtype));
    const compare::Report report = compare::compare_runs(reference, candidate, {});
    runtime::RunOptions run;
    run.model = engine.folder.path().string();
    run.dtype = blame_dtype;
    run.device_map = "cpu";
    const cli::Blame blame = cli::blame_layers(reference, run, {}, [](double) {});
    CHECK(blame.layers.size() == kLayers);
    return std::pair(blame, cli::blame_sentence(blame, report));
  };
  const auto [wrong, words] = blamed(bad, "float32", "float32");
  REQUIRE(wrong.culprit() != nullptr);
  CHECK(wrong.culprit()->layer == 3);
  CHECK(wrong.culprit()->finding->point == "model.layers.3.self_attn.q_proj");
  CHECK(
      words.starts_with("model.layers.3 is the first whose own error is above its limit: "
                        "model.layers.3.self_attn.q_proj "));
  CHECK(words.ends_with("; layers 4 to 5 inherit it"));
  for (const cli::Blame::Layer& each : wrong.layers) CHECK(each.agrees() == (each.layer != 3));
  const auto [hidden, hidden_words] = blamed(bad, "bfloat16", "float32");
  REQUIRE(hidden.culprit() != nullptr);
  CHECK(hidden.culprit()->finding->point == "model.layers.3.self_attn.q_proj");
  CHECK(blamed(good, "float32", "float32").first.culprit() == nullptr);
  CHECK(blamed(good, "bfloat16", "bfloat16").first.culprit() == nullptr);
  CHECK(blamed(good, "float32", "float32").second.starts_with("no block is at fault"));

  // A reference with the names of a model that sees, too: model.language_model.layers.3.
  test::SampleRun other_names = loaded(good.run("reference.h5", "float32"));
  for (store::Layout::Point& each : other_names.layout.points) {
    each.point.name.replace(0, std::string("model.").size(), "model.language_model.");
  }
  runtime::RunOptions run;
  run.model = bad.folder.path().string();
  run.dtype = "float32";
  run.device_map = "cpu";
  const store::Reader seeing(test::write_file(folder / "seeing.h5", other_names));
  const cli::Blame blame = cli::blame_layers(seeing, run, {}, [](double) {});
  REQUIRE(blame.culprit() != nullptr);
  CHECK(blame.culprit()->layer == 3);
  CHECK(blame.culprit()->finding->point == "model.language_model.layers.3.self_attn.q_proj");
}

}  // namespace layerprobe
