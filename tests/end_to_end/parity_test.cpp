// Holds the program to what transformers computes, on the checkpoints of tests/data/parity (made by
// scripts/reference.py, which says what lies in each folder). The float32 values of transformers are the truth for
// both: our float32 must agree with them, and in a narrower dtype our distance to them must be no larger than
// transformers' own.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/float16.h"
#include "base/json.h"
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
    } else {
      const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(bytes.data())[i];
      values[i] = what.dtype == Dtype::bf16 ? f32_of_bf16(bits) : f32_of_f16(bits);
    }
  }
  return values;
}

struct Distance {
  double squared_difference = 0;
  double squared_reference = 0;
  double rel_l2() const { return std::sqrt(squared_difference / squared_reference); }
};

Distance distance(const std::vector<double>& values, const std::vector<double>& reference) {
  REQUIRE(values.size() == reference.size());
  Distance out;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = values[i] - reference[i];
    out.squared_difference += difference * difference;
    out.squared_reference += reference[i] * reference[i];
  }
  return out;
}

/// Runs the program on the folder's prompts and gives, for every point of the reference, how far it is from there.
std::map<std::string, Distance> distances(const fs::path& model, const std::string& dtype, const fs::path& output) {
  const test::Finished run =
      test::run_layerprobe({"run", "--model", model.string(), "--input-ids", (model / "input_ids.json").string(),
                            "--dtype", dtype, "--output", output.string(), "--overwrite", "--quiet"});
  INFO(run.err);
  REQUIRE(run.exit_code == 0);

  const store::Reader reference(model / "reference.h5");
  const store::Reader ours(output);
  REQUIRE(ours.prompts().input_ids == reference.prompts().input_ids);
  std::map<std::string, Distance> out;
  for (std::size_t i = 0; i < reference.points().size(); ++i) {
    const std::string& name = reference.points()[i].point.name;
    INFO(name);
    const auto point = ours.find(name);
    REQUIRE(point.has_value());
    out[name] = distance(values_of(ours, *point), values_of(reference, i));
  }
  return out;
}

/// transformers' own squared error at each point, over all prompts.
std::map<std::string, double> their_errors(const fs::path& model, const std::string& dtype) {
  const std::string path = (model / "errors.json").string();
  const Json errors = Json::parse(read_text_file(path), path);
  REQUIRE(errors.find(dtype) != nullptr);
  std::map<std::string, double> out;
  for (const auto& [point, of_prompts] : errors.find(dtype)->members()) {
    for (const Json& error : of_prompts.items()) out[point] += error.number();
  }
  return out;
}

}  // namespace

TEST_CASE("float32 agrees with transformers' float32 at every layer") {
  const test::TempFolder folder;
  double worst = 0;
  std::string where;
  REQUIRE(model_folders().size() >= 30);
  for (const fs::path& model : model_folders()) {
    CAPTURE(model.filename().string());
    for (const auto& [point, distance] : distances(model, "float32", folder.path() / "ours.h5")) {
      CAPTURE(point);
      CHECK(distance.rel_l2() <= kMaxRelL2);
      if (!(distance.rel_l2() > worst)) continue;
      worst = distance.rel_l2();
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
    for (const fs::path& model : model_folders()) {
      CAPTURE(model.filename().string());
      const std::map<std::string, double> theirs = their_errors(model, dtype);
      for (const auto& [point, distance] : distances(model, dtype, folder.path() / "ours.h5")) {
        CAPTURE(point);
        const double ours = distance.squared_difference;
        if (theirs.at(point) == 0) {
          CHECK(ours == 0);  // the embedding of a checkpoint that is stored in this dtype
          continue;
        }
        const double ratio = std::sqrt(ours / theirs.at(point));
        CHECK(ratio <= max_ratio(dtype));
        if (!(ratio > worst)) continue;
        worst = ratio;
        where = text(model.filename().string(), " ", point);
      }
    }
    MESSAGE("largest error in " << dtype << ": " << worst << " of transformers' own (" << where << ")");
  }
}

}  // namespace layerprobe
