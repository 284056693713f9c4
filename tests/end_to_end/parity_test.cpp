// Holds the program to what transformers computes, on the checkpoints of tests/data/parity (made by
// scripts/reference.py, which says what lies in each folder). The float32 values of transformers are the truth for
// both: our float32 must agree with them, and in a narrower dtype our distance to them must be no larger than
// transformers' own. Where tokens choose experts, that of a narrower dtype is over the tokens that chose as they did in
// transformers' run, and so did those before them in the prompt: another choice is another model.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/float16.h"
#include "base/json.h"
#include "base/probe_point.h"
#include "base/text.h"
#include "store/reader.h"
#include "tests/support/places.h"
#include "tests/support/process.h"
#include "tests/support/temp_folder.h"

namespace layerprobe {
namespace {

namespace fs = std::filesystem;

constexpr double kMaxRelL2 = 1e-5;  // of our float32 to transformers'

/// Of our error to transformers' own. In float16 the order of an f32 sum decides one rounding in some hundred, in
/// bfloat16 one in some thousand, and on models as small as these each of them shows.
double max_ratio(const std::string& dtype) { return dtype == "float16" ? 1.2 : 1.1; }

/// Of a checkpoint's choices, those that differ from transformers' in the same narrow dtype.
constexpr double kMaxOtherChoices = 0.02;

std::vector<fs::path> model_folders() {
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(test::root_folder() / "tests/data/parity")) {
    if (fs::exists(entry.path() / "config.json")) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

/// The rows of a point as f64, [rows, width].
std::vector<double> values_of(const store::Reader& file, std::size_t point) {
  const ProbePoint& what = file.points()[point].point;
  const auto count = static_cast<std::size_t>(file.rows().num_rows() * what.width);
  std::vector<std::byte> bytes(count * size_of(what.dtype));
  file.read_rows(point, 0, file.rows().num_rows(), bytes);
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (what.dtype == Dtype::f32) {
      values[i] = reinterpret_cast<const float*>(bytes.data())[i];
    } else if (what.dtype == Dtype::i32) {
      values[i] = reinterpret_cast<const std::int32_t*>(bytes.data())[i];
    } else {
      const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(bytes.data())[i];
      values[i] = what.dtype == Dtype::bf16 ? f32_of_bf16(bits) : f32_of_f16(bits);
    }
  }
  return values;
}

/// How far a token's value is from the reference.
struct Distance {
  double squared_difference = 0;
  double squared_reference = 0;
};

double rel_l2(const std::vector<Distance>& tokens) {
  Distance sum;
  for (const Distance& token : tokens) {
    sum.squared_difference += token.squared_difference;
    sum.squared_reference += token.squared_reference;
  }
  return sum.squared_difference == 0 ? 0 : std::sqrt(sum.squared_difference / sum.squared_reference);
}

std::vector<Distance> distances(const std::vector<double>& values, const std::vector<double>& reference,
                                std::size_t num_tokens) {
  REQUIRE(values.size() == reference.size());
  std::vector<Distance> out(num_tokens);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = values[i] - reference[i];
    Distance& token = out[i / (values.size() / num_tokens)];
    token.squared_difference += difference * difference;
    token.squared_reference += reference[i] * reference[i];
  }
  return out;
}

/// What our run gave, beside the reference.
struct Run {
  std::vector<std::string> points;                         // in the order of the forward pass
  std::map<std::string, std::vector<Distance>> distances;  // of each point, by token
  std::map<std::string, std::vector<double>> choices;      // of each router, [num_tokens, num_experts_per_tok]
  std::vector<std::int64_t> cu_seqlens;
};

/// Runs the program on the folder's prompts: on the CPU, as transformers ran for the reference.
Run run(const fs::path& model, const std::string& dtype, const fs::path& output) {
  const store::Reader reference(model / "reference.h5");
  std::vector<std::string> points;
  for (const store::Layout::Point& point : reference.points()) points.push_back(point.point.name);
  const test::Finished finished = test::run_layerprobe(
      {"run", "--model", model.string(), "--input-ids", (model / "input_ids.json").string(), "--dtype", dtype,
       "--device-map", "cpu", "--capture", join(points, ","), "--output", output.string(), "--overwrite", "--quiet"});
  INFO(finished.err);
  REQUIRE(finished.exit_code == 0);

  const store::Reader ours(output);
  REQUIRE(ours.prompts().input_ids == reference.prompts().input_ids);
  Run out{.points = points, .distances = {}, .choices = {}, .cu_seqlens = reference.prompts().cu_seqlens};
  for (std::size_t i = 0; i < points.size(); ++i) {
    INFO(points[i]);
    const auto point = ours.find(points[i]);
    REQUIRE(point.has_value());
    const std::vector<double> values = values_of(ours, *point);
    if (points[i].ends_with(":topk_indices")) out.choices[points[i]] = values;
    out.distances[points[i]] =
        distances(values, values_of(reference, i), static_cast<std::size_t>(reference.rows().num_rows()));
  }
  return out;
}

Json read_json(const fs::path& path) { return Json::parse(read_text_file(path.string()), path.string()); }

/// transformers' own squared error at each point: of each prompt, or of each token where there are experts.
std::map<std::string, std::vector<double>> their_errors(const fs::path& model, const std::string& dtype) {
  const Json errors = read_json(model / "errors.json");
  REQUIRE(errors.find(dtype) != nullptr);
  std::map<std::string, std::vector<double>> out;
  for (const auto& [point, of_prompts] : errors.find(dtype)->members()) {
    for (const Json& error : of_prompts.items()) out[point].push_back(error.number());
  }
  return out;
}

/// What a router chose, by token, beside transformers' run of that dtype.
struct Choices {
  std::vector<bool> is_equal;    // the same experts
  std::vector<bool> is_ordered;  // and in the same order, so that the weights stand side by side
};

/// Of each router.
std::map<std::string, Choices> equal_choices(const Run& ours, const fs::path& model, const std::string& dtype) {
  std::map<std::string, Choices> out;
  if (ours.choices.empty()) return out;
  const Json routing = read_json(model / "routing.json");
  for (const auto& [point, choices] : ours.choices) {
    const Json::Array& theirs = routing.find(dtype)->find(point)->items();
    const std::size_t width = choices.size() / theirs.size();
    for (std::size_t token = 0; token < theirs.size(); ++token) {
      std::vector<double> of_ours(width), of_theirs(width);
      for (std::size_t j = 0; j < width; ++j) {
        of_ours[j] = choices[token * width + j];
        of_theirs[j] = theirs[token].items()[j].number();
      }
      out[point].is_ordered.push_back(of_ours == of_theirs);
      std::ranges::sort(of_ours);
      std::ranges::sort(of_theirs);
      out[point].is_equal.push_back(of_ours == of_theirs);
    }
  }
  return out;
}

/// Takes out of `strict` the tokens that chose otherwise at this router, and those behind them in their prompt.
void drop_other_choices(const std::vector<bool>& equal, const std::vector<std::int64_t>& cu_seqlens,
                        std::vector<bool>& strict) {
  for (std::size_t prompt = 0; prompt + 1 < cu_seqlens.size(); ++prompt) {
    bool is_equal = true;
    for (auto token = static_cast<std::size_t>(cu_seqlens[prompt]);
         token < static_cast<std::size_t>(cu_seqlens[prompt + 1]); ++token) {
      is_equal = is_equal && equal[token];
      strict[token] = strict[token] && is_equal;
    }
  }
}

}  // namespace

TEST_CASE("float32 agrees with transformers' float32 at every layer, and every token chooses the same experts") {
  const test::TempFolder folder;
  double worst = 0;
  std::string where;
  REQUIRE(model_folders().size() >= 50);
  for (const fs::path& model : model_folders()) {
    CAPTURE(model.filename().string());
    for (const auto& [point, tokens] : run(model, "float32", folder.path() / "ours.h5").distances) {
      CAPTURE(point);
      CHECK(rel_l2(tokens) <= (point.ends_with(":topk_indices") ? 0 : kMaxRelL2));
      if (!(rel_l2(tokens) > worst)) continue;
      worst = rel_l2(tokens);
      where = text(model.filename().string(), " ", point);
    }
  }
  MESSAGE("largest relative L2 in float32: " << worst << " (" << where << ")");
}

TEST_CASE("bfloat16 and float16 stray from transformers' float32 no further than transformers' own do") {
  const test::TempFolder folder;
  for (const std::string dtype : {"bfloat16", "float16"}) {
    double worst = 0;
    std::string where;
    std::int64_t num_choices = 0, num_other = 0;
    for (const fs::path& model : model_folders()) {
      CAPTURE(model.filename().string());
      if (read_json(model / "errors.json").find(dtype) == nullptr) continue;  // FP8 is for bfloat16
      const std::map<std::string, std::vector<double>> theirs = their_errors(model, dtype);
      const Run ours = run(model, dtype, folder.path() / "ours.h5");
      const auto equal = equal_choices(ours, model, dtype);
      const auto num_tokens = static_cast<std::size_t>(ours.cu_seqlens.back());
      std::vector<bool> strict(num_tokens, true);
      for (const std::string& point : ours.points) {
        CAPTURE(point);
        if (const auto found = equal.find(point); found != equal.end()) {
          num_choices += std::ssize(found->second.is_equal);
          num_other += std::ranges::count(found->second.is_equal, false);
          drop_other_choices(found->second.is_equal, ours.cu_seqlens, strict);
          continue;
        }
        REQUIRE(theirs.contains(point));
        std::vector<bool> compared = strict;
        if (point.ends_with(":topk_weights")) {
          const std::string indices = point.substr(0, point.rfind(':')) + ":topk_indices";
          for (std::size_t token = 0; token < num_tokens; ++token) {
            compared[token] = compared[token] && equal.at(indices).is_ordered[token];
          }
        }
        double our_error = 0, their_error = 0;
        for (std::size_t token = 0; token < num_tokens; ++token) {
          if (compared[token]) our_error += ours.distances.at(point)[token].squared_difference;
        }
        for (std::size_t i = 0; i < theirs.at(point).size(); ++i) {
          if (equal.empty() || compared[i]) their_error += theirs.at(point)[i];
        }
        if (their_error == 0) {
          CHECK(our_error == 0);  // the embedding of a checkpoint that is stored in this dtype
          continue;
        }
        const double ratio = std::sqrt(our_error / their_error);
        CHECK(ratio <= max_ratio(dtype));
        if (!(ratio > worst)) continue;
        worst = ratio;
        where = text(model.filename().string(), " ", point);
      }
    }
    CHECK(static_cast<double>(num_other) <= kMaxOtherChoices * static_cast<double>(num_choices));
    MESSAGE("largest error in " << dtype << ": " << worst << " of transformers' own (" << where << "); " << num_other
                                << " of " << num_choices << " choices of experts are others than transformers'");
  }
}

}  // namespace layerprobe
