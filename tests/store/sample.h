#pragma once

// A small run to write: three prompts, a point of every dtype, one with statistics only, top-k.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/text.h"
#include "store/reader.h"
#include "store/writer.h"
#include "tests/support/temp_folder.h"

namespace layerprobe::test {

inline std::string read_all(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_all(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline store::Layout sample_layout() {
  return {.points = {{.point = {.name = "model.embed_tokens", .dtype = Dtype::bf16, .width = 6}},
                     {.point = {.name = "model.layers.0.mlp:topk_indices", .dtype = Dtype::i32, .width = 2}},
                     {.point = {.name = "model.layers.0", .dtype = Dtype::f16, .width = 6}},
                     {.point = {.name = "model.layers.1", .dtype = Dtype::bf16, .width = 600}, .stored = false},
                     {.point = {.name = "model.norm", .dtype = Dtype::f32, .width = 5}},
                     {.point = {.name = "lm_head", .dtype = Dtype::f64, .width = 300}}},
          .prompts = {.input_ids = {11, 12, 13, 14, 15, 16},
                      .cu_seqlens = {0, 3, 4, 6},
                      .texts = {"one two three", "", "gr\xc3\xbc\xc3\x9f dich"}},
          .rows = {.cu_rows = {0, 2, 3, 4}, .position = {0, 2, 0, 1}},
          .top_k = 2,
          .identity = {{"model_hash", "abc"}, {"seed", std::int64_t{7}}, {"scale", 0.5}},
          .information = {{"command_line", "layerprobe --model m"}, {"empty", ""}}};
}

/// The bytes of `rows` rows of a point, different everywhere.
inline std::vector<std::byte> sample_rows(const store::Layout& layout, std::size_t point, std::int64_t first_row,
                                          std::int64_t rows) {
  const ProbePoint& described = layout.points[point].point;
  const auto row_bytes = static_cast<std::size_t>(described.width) * size_of(described.dtype);
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows) * row_bytes);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::size_t place = static_cast<std::size_t>(first_row) * row_bytes + i;
    bytes[i] = static_cast<std::byte>((place * 37 + point * 101 + place / 256 + 1) & 0x3f);  // no NaN in any dtype
  }
  return bytes;
}

inline std::int64_t rows_of(const store::Layout& layout, std::size_t point, std::int64_t prompt) {
  const auto p = static_cast<std::size_t>(prompt);
  const auto& cu = layout.points[point].stored ? layout.rows.cu_rows : layout.prompts.cu_seqlens;
  return cu[p + 1] - cu[p];
}

inline Statistics sample_statistics(const store::Layout& layout, std::size_t point, std::int64_t prompt) {
  const double value = 1.0 + static_cast<double>(point) * 10 + static_cast<double>(prompt);
  return {.count = rows_of(layout, point, prompt) * layout.points[point].point.width,
          .sum = value / 3,
          .sum_of_squares = value * value / 7,
          .min = -value,
          .max = value,
          .abs_max = value,
          .abs_max_row = rows_of(layout, point, prompt) - 1,
          .abs_max_column = 1,
          .nan_count = prompt == 1 ? 1 : 0,
          .inf_count = 0,
          .first_non_finite_row = prompt == 1 ? 0 : -1};
}

/// All that a run computes of one prompt, marked complete.
inline void write_prompt(store::Writer& writer, const store::Layout& layout, std::int64_t prompt) {
  const std::int64_t first_row = layout.rows.cu_rows[static_cast<std::size_t>(prompt)];
  for (std::size_t point = 0; point < layout.points.size(); ++point) {
    if (layout.points[point].stored) {
      writer.write_rows(point, first_row, sample_rows(layout, point, first_row, rows_of(layout, point, prompt)));
    }
    writer.write_statistics(point, prompt, sample_statistics(layout, point, prompt));
  }
  for (std::int64_t row = first_row; row < layout.rows.cu_rows[static_cast<std::size_t>(prompt) + 1]; ++row) {
    const auto id = static_cast<std::int32_t>(100 + row);
    writer.write_top_k(row, std::vector<std::int32_t>{id, id + 50}, std::vector<float>{2.5f, 1.5f});
  }
  for (std::size_t point = 0; point < layout.points.size(); ++point) writer.mark_complete(point, prompt);
}

inline void write_texts_and_finish(store::Writer& writer) {
  std::vector<std::string> texts;
  for (const std::int32_t id : writer.top_k_ids()) texts.push_back(text("<", id, ">"));
  writer.write_top_k_texts(texts);
  writer.finish({{"end_time", "2026-01-01T00:00:00Z"}, {"elapsed_seconds", 2.0}, {"num_batches", std::int64_t{3}}});
}

inline void write_run(const std::filesystem::path& path, const store::Layout& layout) {
  store::Writer writer(path, layout, store::Writer::IfExists::refuse);
  for (std::int64_t prompt = 0; prompt < layout.prompts.num_prompts(); ++prompt) write_prompt(writer, layout, prompt);
  write_texts_and_finish(writer);
}

}  // namespace layerprobe::test
