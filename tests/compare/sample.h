#pragma once

// A small captured run held in memory, to be changed in one place and written.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/float16.h"
#include "base/text.h"
#include "store/writer.h"

namespace layerprobe::test {

struct SampleRun {
  store::Layout layout;
  std::vector<std::vector<double>> values;                    // [num_points], each [num_rows, width]
  std::set<std::pair<std::size_t, std::int64_t>> incomplete;  // (point, prompt): with one the file stays partial

  std::size_t point(const std::string& name) const {
    std::size_t i = 0;
    while (layout.points.at(i).point.name != name) ++i;
    return i;
  }
  /// Of row `row`, counted over all prompts.
  double& at(const std::string& name, std::int64_t row, std::int64_t channel) {
    const std::size_t i = point(name);
    return values[i].at(static_cast<std::size_t>(row * layout.points[i].point.width + channel));
  }
  void set_dtype(Dtype dtype) {
    for (store::Layout::Point& each : layout.points) each.point.dtype = dtype;
  }
  void remove(const std::string& name) {
    const auto i = static_cast<std::ptrdiff_t>(point(name));
    layout.points.erase(layout.points.begin() + i);
    values.erase(values.begin() + i);
  }
};

/// A number of 8 bits between -1 and 1, so that bf16 has it exactly; another one at each place.
inline double sample_value(std::size_t point, std::int64_t prompt, std::int64_t token, std::int64_t channel) {
  std::uint64_t x = point * 1000003u + static_cast<std::uint64_t>(prompt) * 10007u +
                    static_cast<std::uint64_t>(token) * 101u + static_cast<std::uint64_t>(channel) + 1u;
  x *= 0x9e3779b97f4a7c15u;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9u;
  return (static_cast<double>(x >> 56) - 127.5) / 128;
}

/// Prompts of 5, 1 and 7 tokens, all of them kept: embed_tokens, four layers and norm.
inline SampleRun sample_run(std::int64_t width = 24) {
  SampleRun run;
  std::vector<std::string> names = {"model.embed_tokens"};
  for (int layer = 0; layer < 4; ++layer) names.push_back(text("model.layers.", layer));
  names.push_back("model.norm");
  for (const std::string& name : names) {
    run.layout.points.push_back({.point = {.name = name, .dtype = Dtype::bf16, .width = width}});
  }
  run.layout.prompts.cu_seqlens = {0, 5, 6, 13};
  for (std::int32_t i = 0; i < 13; ++i) run.layout.prompts.input_ids.push_back(100 + i);
  run.layout.rows = {.cu_rows = {0, 5, 6, 13}, .position = {0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5, 6}};
  for (std::size_t point = 0; point < names.size(); ++point) {
    std::vector<double>& values = run.values.emplace_back();
    for (std::int64_t prompt = 0; prompt < 3; ++prompt) {
      for (std::int64_t token = 0; token < run.layout.prompts.length(prompt); ++token) {
        for (std::int64_t c = 0; c < width; ++c) values.push_back(sample_value(point, prompt, token, c));
      }
    }
  }
  return run;
}

/// Keeps only those rows, counted over all prompts.
inline SampleRun only_rows(const SampleRun& run, const std::vector<std::int64_t>& rows) {
  SampleRun out = run;
  out.layout.rows = {.cu_rows = {0}, .position = {}};
  for (auto& values : out.values) values.clear();
  for (std::size_t prompt = 0; prompt + 1 < run.layout.rows.cu_rows.size(); ++prompt) {
    for (const std::int64_t row : rows) {
      if (row < run.layout.rows.cu_rows[prompt] || row >= run.layout.rows.cu_rows[prompt + 1]) continue;
      out.layout.rows.position.push_back(run.layout.rows.position[static_cast<std::size_t>(row)]);
      for (std::size_t i = 0; i < run.values.size(); ++i) {
        const std::int64_t width = run.layout.points[i].point.width;
        const auto first = run.values[i].begin() + row * width;
        out.values[i].insert(out.values[i].end(), first, first + width);
      }
    }
    out.layout.rows.cu_rows.push_back(static_cast<std::int64_t>(out.layout.rows.position.size()));
  }
  return out;
}

inline void append_as(Dtype dtype, double value, std::vector<std::byte>& out) {
  const auto append = [&](const auto& element) {
    const std::size_t at = out.size();
    out.resize(at + sizeof element);
    std::memcpy(out.data() + at, &element, sizeof element);
  };
  switch (dtype) {
    case Dtype::f64:
      return append(value);
    case Dtype::f32:
      return append(static_cast<float>(value));
    case Dtype::f16:
      return append(f16_of_f32(static_cast<float>(value)));
    case Dtype::bf16:
      return append(bf16_of_f32(static_cast<float>(value)));
    case Dtype::i32:
      return append(static_cast<std::int32_t>(value));
  }
}

/// The file that was written: "<path>.partial" when something is incomplete.
inline std::filesystem::path write_file(const std::filesystem::path& path, const SampleRun& run) {
  store::Writer writer(path, run.layout, store::Writer::IfExists::overwrite);
  for (std::size_t point = 0; point < run.layout.points.size(); ++point) {
    std::vector<std::byte> rows;
    for (const double value : run.values[point]) append_as(run.layout.points[point].point.dtype, value, rows);
    if (run.layout.points[point].stored) writer.write_rows(point, 0, rows);
    for (std::int64_t prompt = 0; prompt < run.layout.prompts.num_prompts(); ++prompt) {
      writer.write_statistics(point, prompt, {});
      if (!run.incomplete.contains({point, prompt})) writer.mark_complete(point, prompt);
    }
  }
  if (!run.incomplete.empty()) {
    writer.commit();
    return path.string() + ".partial";
  }
  writer.finish({});
  return path;
}

}  // namespace layerprobe::test
