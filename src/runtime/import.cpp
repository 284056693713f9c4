// Two steps: find what each array is (its point, its prompt) and check that all of them make one run; then copy them,
// piece by piece, with their statistics.
#include "runtime/import.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/probe_point.h"
#include "base/text.h"
#include "device/ops.h"
#include "model/config.h"
#include "runtime/import_arrays.h"
#include "runtime/import_points.h"
#include "runtime/input.h"

namespace layerprobe::runtime {
namespace {

namespace fs = std::filesystem;

/// Points in the order of the forward pass: by layer, inside one by kHere, the layer's output last.
std::vector<std::string> in_forward_order(const Found& found) {
  static constexpr std::array<std::string_view, 21> kHere = {":input",
                                                             ".input_layernorm:input",
                                                             ".input_layernorm",
                                                             ".self_attn.q_proj",
                                                             ".self_attn.k_proj",
                                                             ".self_attn.v_proj",
                                                             ".self_attn.q_norm",
                                                             ".self_attn.k_norm",
                                                             ".self_attn.o_proj:input",
                                                             ".self_attn.o_proj",
                                                             ".self_attn",
                                                             ".post_attention_layernorm:input",
                                                             ".post_attention_layernorm",
                                                             ".mlp.gate",
                                                             ".mlp:topk_indices",
                                                             ".mlp:topk_weights",
                                                             ".mlp.gate_proj",
                                                             ".mlp.up_proj",
                                                             ".mlp.down_proj:input",
                                                             ".mlp.down_proj",
                                                             ".mlp"};
  const auto rank = [](const std::string& name) {
    const int layer = layer_of(name);
    const std::string_view semantics = semantics_of(name);
    if (layer < 0) {
      const int part = semantics == "embedding" ? -1 : semantics == "logits" ? 1'000'002 : 1'000'001;
      return std::pair(part, std::size_t{0});
    }
    if (semantics == "residual_after_block") return std::pair(layer, kHere.size() + 1);
    const std::string number = text("layers.", layer);
    const std::string suffix = name.substr(name.find(number) + number.size());
    const auto* const at = std::ranges::find(kHere, suffix);
    return std::pair(layer, static_cast<std::size_t>(at - kHere.begin()));
  };
  std::vector<std::string> names;
  for (const auto& [name, arrays] : found.by_prompt) names.push_back(name);
  for (const auto& [name, array] : found.whole) names.push_back(name);
  std::ranges::stable_sort(names, [&](const std::string& a, const std::string& b) { return rank(a) < rank(b); });
  return names;
}

/// A point's rows of a prompt.
struct Source {
  const Array* array;
  std::int64_t first_row;
};

struct Plan {
  store::Layout layout;
  std::vector<std::vector<Source>> sources;  // [points][prompts]
};

Prompts ids_from_file(const std::string& path) {
  model::ModelConfig any;
  any.vocab_size = std::numeric_limits<std::int32_t>::max();
  return read_prompts({.input_ids_file = path}, any, {}).prompts;
}

void append_prompt(Prompts& prompts, std::span<const std::int32_t> ids, std::int64_t length) {
  if (prompts.cu_seqlens.empty()) prompts.cu_seqlens.push_back(0);
  prompts.input_ids.insert(prompts.input_ids.end(), ids.begin(), ids.end());
  prompts.cu_seqlens.push_back(prompts.cu_seqlens.back() + length);
}

/// The prompts of arrays that are of one prompt each, named `keys`.
Prompts prompts_by_key(const Found& found, const std::vector<std::string>& keys, const ImportOptions& options) {
  if (!options.input_ids_file.empty()) {
    Prompts prompts = ids_from_file(options.input_ids_file);
    if (prompts.num_prompts() == static_cast<std::int64_t>(keys.size())) return prompts;
    throw bad_input(options.input_ids_file,
                    text("has ", prompts.num_prompts(), " prompts where the arrays are of ", keys.size()),
                    "give the ids of exactly the imported prompts, in their order");
  }
  Prompts prompts;
  for (const std::string& key : keys) {
    const Array& first = found.by_prompt.begin()->second.at(key);
    const auto ids = found.ids.find(key);
    if (ids == found.ids.end() && !found.ids.empty()) {
      throw bad_input(first.where, text("is of prompt ", key, ", which has no token ids"),
                      "save the ids of every prompt");
    }
    if (ids == found.ids.end()) {
      append_prompt(prompts, {}, first.rows);
    } else {
      append_prompt(prompts, ids->second, static_cast<std::int64_t>(ids->second.size()));
    }
  }
  return prompts;
}

Prompts prompts_of_whole(const Found& found, const ImportOptions& options) {
  if (!options.input_ids_file.empty()) return ids_from_file(options.input_ids_file);
  Prompts prompts;
  if (const auto ids = found.ids.find(""); ids != found.ids.end()) {
    append_prompt(prompts, ids->second, static_cast<std::int64_t>(ids->second.size()));
  } else {
    append_prompt(prompts, {}, found.whole.begin()->second.rows);
  }
  return prompts;
}

/// Which token each row is.
CapturedRows rows_of(const Prompts& prompts, bool only_last) {
  CapturedRows rows;
  rows.cu_rows.push_back(0);
  for (std::int64_t prompt = 0; prompt < prompts.num_prompts(); ++prompt) {
    const std::int64_t length = prompts.length(prompt);
    for (std::int64_t token = only_last ? length - 1 : 0; token < length; ++token) {
      rows.position.push_back(static_cast<std::int32_t>(token));
    }
    rows.cu_rows.push_back(static_cast<std::int64_t>(rows.position.size()));
  }
  return rows;
}

/// Checks that the arrays make one run.
Plan plan_of(const Found& found, const ImportOptions& options) {
  if (!found.whole.empty() && !found.by_prompt.empty()) {
    throw bad_input(found.whole.begin()->second.where,
                    text("is of all prompts, and ", found.by_prompt.begin()->second.begin()->second.where, " of one"),
                    "import them into two files");
  }
  Plan plan;
  std::vector<std::string> keys;
  if (!found.by_prompt.empty()) {
    std::set<std::string, NaturalOrder> all;
    for (const auto& [point, arrays] : found.by_prompt) {
      for (const auto& [key, array] : arrays) all.insert(key);
    }
    keys.assign(all.begin(), all.end());
    for (const auto& [point, arrays] : found.by_prompt) {
      for (const std::string& key : keys) {
        if (arrays.contains(key)) continue;
        throw bad_input(arrays.begin()->second.file.parent_path().string(),
                        text("prompt ", key, " has no ", point, ", which others have"), "import what every prompt has");
      }
    }
    plan.layout.prompts = prompts_by_key(found, keys, options);
  } else {
    plan.layout.prompts = prompts_of_whole(found, options);
  }
  plan.layout.rows = rows_of(plan.layout.prompts, options.tokens == "last");
  const CapturedRows& rows = plan.layout.rows;
  for (const std::string& name : in_forward_order(found)) {
    std::vector<Source> sources;
    const Array* first = nullptr;
    const auto check = [&](const Array& array, std::int64_t num_rows, const std::string& of) {
      if (array.rows != num_rows) {
        throw bad_input(array.where,
                        text("has ", array.rows, " rows where ", of, " has ", num_rows,
                             options.tokens == "last" ? ", one a prompt" : ", one a token"),
                        options.tokens == "last" ? "leave --tokens last out where every token has its row"
                                                 : "give the prompts' ids with --input-ids, or --tokens last");
      }
      if (first == nullptr) first = &array;
      check_integers(array);
      if (array.width == first->width && array.storage == first->storage) return;
      throw bad_input(array.where,
                      text("is ", name_of(array.storage), " [", array.rows, ", ", array.width, "] where ", first->where,
                           " is ", name_of(first->storage), " [.., ", first->width, "]"),
                      "save a point alike for every prompt");
    };
    for (std::size_t prompt = 0; prompt + 1 < rows.cu_rows.size(); ++prompt) {
      const std::int64_t num_rows = rows.cu_rows[prompt + 1] - rows.cu_rows[prompt];
      if (keys.empty()) {
        const Array& array = found.whole.at(name);
        if (prompt == 0) check(array, rows.num_rows(), "the input");
        sources.push_back({.array = &array, .first_row = rows.cu_rows[prompt]});
      } else {
        const Array& array = found.by_prompt.at(name).at(keys[prompt]);
        check(array, num_rows, "prompt " + keys[prompt]);
        sources.push_back({.array = &array, .first_row = 0});
      }
    }
    plan.layout.points.push_back(
        {.point = {.name = name, .dtype = kept_as(*first), .width = first->width}, .stored = true});
    plan.sources.push_back(std::move(sources));
  }
  return plan;
}

/// The narrowest that a point has: a run in bfloat16 keeps its weights of experts in float32.
std::string computed_dtype(const store::Layout& layout, const ImportOptions& options) {
  if (!options.dtype.empty()) return options.dtype;
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32, Dtype::f64}) {
    for (const store::Layout::Point& each : layout.points) {
      if (each.point.dtype == dtype) return std::string(name_of(dtype));
    }
  }
  return "float32";
}

/// Opens OUT.h5; what the writer says of --output is said of that, and there is no --resume.
store::Writer make_writer(const ImportOptions& options, const store::Layout& layout) {
  try {
    return {options.output, layout, options.if_exists};
  } catch (const Error& error) {
    Error::Parts parts = error.parts();
    parts.fix = replaced(replaced(parts.fix, "--resume continues it, ", ""), "--output", "OUT.h5");
    throw Error(parts);
  }
}

void expect_no_source(const fs::path& output, const std::vector<Array>& arrays) {
  std::error_code missing;
  if (!fs::exists(output, missing)) return;
  for (const Array& array : arrays) {
    if (!fs::equivalent(output, array.file, missing)) continue;
    throw Error({.kind = ErrorKind::usage,
                 .where = array.where,
                 .what = "is an array and the file to be made of them",
                 .fix = "choose another OUT.h5"});
  }
}

}  // namespace

ImportReport import_arrays(const ImportOptions& options, const std::function<void(double)>& progress) {
  if (options.tokens != "all" && options.tokens != "last") {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--tokens " + options.tokens,
                 .what = "is neither all nor last",
                 .fix = "say which tokens of its prompt the rows are"});
  }
  if (!options.dtype.empty() && !find_dtype(options.dtype)) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--dtype " + options.dtype,
                 .what = "is none of bfloat16, float16, float32 and float64",
                 .fix = "name the dtype that the engine computed in"});
  }
  const std::vector<Array> arrays = arrays_of(options.sources);
  expect_no_source(options.output, arrays);
  const Found found = options.vllm_layers.empty() ? matched(arrays, options.map) : of_vllm(arrays, options.vllm_layers);
  Plan plan = plan_of(found, options);
  store::Layout& layout = plan.layout;
  layout.identity = {{"dtype", computed_dtype(layout, options)},
                     {"test_type", std::string("import")},
                     {"input", std::string("tokens")}};
  layout.information = {{"program", std::string("layerprobe ") + LAYERPROBE_VERSION},
                        {"command_line", options.command_line},
                        {"source", fs::absolute(options.sources.front()).string()}};
  if (!options.engine.empty()) layout.information["engine"] = options.engine;

  store::Writer writer = make_writer(options, layout);
  const std::unique_ptr<device::Ops> ops = device::cpu_ops();
  const CapturedRows& rows = layout.rows;
  const std::int64_t num_prompts = layout.prompts.num_prompts();
  std::vector<std::byte> piece;
  for (std::size_t point = 0; point < layout.points.size(); ++point) {
    const ProbePoint& kept = layout.points[point].point;
    std::optional<File> file;
    for (std::int64_t prompt = 0; prompt < num_prompts; ++prompt) {
      const Source& source = plan.sources[point][static_cast<std::size_t>(prompt)];
      if (!file || file->path() != source.array->file) file.emplace(File::open_for_reading(source.array->file));
      const std::int64_t first_row = rows.cu_rows[static_cast<std::size_t>(prompt)];
      const std::int64_t num_rows = rows.cu_rows[static_cast<std::size_t>(prompt) + 1] - first_row;
      const std::int64_t at_once = rows_at_once(*source.array);
      Statistics statistics;
      for (std::int64_t row = 0; row < num_rows; row += at_once) {
        const std::int64_t count = std::min(at_once, num_rows - row);
        read_rows(*source.array, *file, source.first_row + row, count, piece);
        writer.write_rows(point, first_row + row, piece);
        const std::array<std::int64_t, 2> bounds = {0, count};
        ops->append_statistics({.out = std::span(&statistics, 1),
                                .x = device::Tensor::contiguous(piece.data(), kept.dtype, count, kept.width),
                                .cu_rows = bounds});
      }
      writer.write_statistics(point, prompt, statistics);
      writer.mark_complete(point, prompt);
      const auto done = static_cast<double>(point) + static_cast<double>(prompt + 1) / static_cast<double>(num_prompts);
      if (progress) progress(done / static_cast<double>(layout.points.size()));
    }
  }
  const std::uint64_t bytes = writer.capture_bytes();
  writer.finish({});
  return {.output = options.output,
          .num_points = static_cast<std::int64_t>(layout.points.size()),
          .num_prompts = num_prompts,
          .num_rows = rows.num_rows(),
          .bytes = bytes,
          .has_input_ids = !layout.prompts.input_ids.empty(),
          .left_out = found.left_out,
          .took_v2_as_bfloat16 = std::ranges::any_of(arrays, [](const Array& each) {
            return each.storage == Storage::bf16 && each.file.extension() == ".npy";
          })};
}

}  // namespace layerprobe::runtime
