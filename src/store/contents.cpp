#include "store/contents.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/json.h"
#include "base/text.h"
#include "store/expert_counts.h"
#include "store/format.h"
#include "store/hdf5_input.h"

namespace layerprobe::store {
namespace {

using hdf5::Element;
using hdf5::Found;
using hdf5::Input;

constexpr std::int64_t kMaxWidth = std::int64_t{1} << 31;
constexpr std::int64_t kMaxElements = std::int64_t{1} << 62;  // of a point, over all tokens
constexpr std::uint64_t kMaxPoints = 10'000'000;
constexpr std::int64_t kMaxUnmarked = std::int64_t{1} << 32;  // points x prompts, where no /completion takes space

void read_version(const Input& input, const Attributes& attributes) {
  const auto at = attributes.find("format_version");
  const auto* version = at == attributes.end() ? nullptr : std::get_if<std::int64_t>(&at->second);
  if (version == nullptr) {
    input.refuse("attribute format_version", "is missing or no integer",
                 "name a file that layerprobe or scripts/capture_hf.py wrote");
  }
  if (*version < 1) input.refuse("attribute format_version", text("is ", *version, "; versions begin with 1"));
  if (*version > kFormatVersion) {
    input.refuse("attribute format_version", text("is ", *version, "; this program reads up to ", kFormatVersion),
                 "use the newer layerprobe that wrote it");
  }
}

/// Offsets into `length` of something: begin with 0, never fall, end with `length`.
void expect_offsets(const Input& input, const Found& found, std::span<const std::int64_t> offsets,
                    std::int64_t length) {
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    const std::int64_t least = i == 0 ? 0 : offsets[i - 1];
    if (offsets[i] < least || (i == 0 && offsets[i] != 0)) {
      input.refuse(found.path, text("element ", i, " is ", offsets[i], " where ", i == 0 ? "" : "at least ", least,
                                    " is expected"));
    }
  }
  if (offsets.back() != length) {
    input.refuse(found.path, text("ends with ", offsets.back(), " where ", length, " is expected"));
  }
}

void read_prompts(Input& input, Contents& contents) {
  Prompts& prompts = contents.prompts;
  const Found cu_seqlens = input.dataset("/prompts", "cu_seqlens");
  prompts.cu_seqlens = input.read_i64(cu_seqlens);
  if (cu_seqlens.shape.size() != 1 || prompts.cu_seqlens.empty()) {
    input.refuse(cu_seqlens.path, text("is ", shape_text(cu_seqlens.shape), " where [num_prompts + 1] is expected"));
  }
  expect_offsets(input, cu_seqlens, prompts.cu_seqlens, prompts.num_tokens());
  const Found input_ids = input.dataset("/prompts", "input_ids");
  prompts.input_ids = input.read_i32(input_ids);
  if (!prompts.input_ids.empty()) input.expect_shape(input_ids, std::array{prompts.num_tokens()});

  std::optional<Found> text_offsets = input.find("/prompts", "text_offsets");
  if (!text_offsets) return;
  input.expect_shape(*text_offsets, std::array{prompts.num_prompts() + 1});
  const std::vector<std::int64_t> offsets = input.read_i64(*text_offsets);
  const std::vector<std::uint8_t> bytes = input.read_u8(input.dataset("/prompts", "text_bytes"));
  expect_offsets(input, *text_offsets, offsets, std::ssize(bytes));
  for (std::size_t p = 0; p + 1 < offsets.size(); ++p) {
    prompts.texts.emplace_back(bytes.begin() + offsets[p], bytes.begin() + offsets[p + 1]);
  }
}

void read_rows(Input& input, Contents& contents) {
  const Prompts& prompts = contents.prompts;
  CapturedRows& rows = contents.rows;
  const Found cu_rows = input.dataset("/rows", "cu_rows");
  input.expect_shape(cu_rows, std::array{prompts.num_prompts() + 1});
  rows.cu_rows = input.read_i64(cu_rows);
  const Found position = input.dataset("/rows", "position");
  rows.position = input.read_i32(position);
  expect_offsets(input, cu_rows, rows.cu_rows, std::ssize(rows.position));
  for (std::int64_t p = 0; p < prompts.num_prompts(); ++p) {
    for (std::int64_t r = rows.cu_rows[static_cast<std::size_t>(p)]; r < rows.cu_rows[static_cast<std::size_t>(p) + 1];
         ++r) {
      const std::int32_t token = rows.position[static_cast<std::size_t>(r)];
      if (token < -1 || token >= prompts.length(p)) {
        input.refuse(position.path,
                     text("row ", r, " is token ", token, " of prompt ", p, ", which has ", prompts.length(p)));
      }
    }
  }
}

/// What /statistics says of the points; empty lists where it says nothing.
struct Declared {
  std::vector<std::string> dtypes;
  std::vector<std::int64_t> widths;
};

void read_point(Input& input, Contents& contents, const std::string& name, const Declared& declared) {
  const std::string path = "/captures/" + name;
  const std::size_t index = contents.points.size();
  ProbePoint point{.name = name, .dtype = Dtype::f32, .width = 0};
  const std::optional<Found> found = input.find("/captures", name);
  if (found) {
    if (found->shape.size() != 2) {
      input.refuse(path,
                   text("is ", shape_text(found->shape), " where [", contents.rows.num_rows(), ", width] is expected"));
    }
    point.width = found->shape[1];
    input.expect_shape(*found, std::array{contents.rows.num_rows(), point.width});
    bool known = false;
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i32}) {
      if (found->type.element != hdf5::element_of(dtype)) continue;
      point.dtype = dtype;
      known = true;
    }
    if (!known) input.refuse(path, "its type is none of f64, f32, f16, bf16, i32");
  } else if (declared.dtypes.empty() || declared.widths.empty()) {
    input.refuse(path, "is missing, and /statistics has no dtypes and widths for a point without a dataset");
  }
  if (!declared.widths.empty()) {
    if (found && declared.widths[index] != point.width) {
      input.refuse(path, text("is ", point.width, " wide where /statistics/widths says ", declared.widths[index]));
    }
    point.width = declared.widths[index];
  }
  if (!declared.dtypes.empty()) {
    const std::string& dtype = declared.dtypes[index];
    if (found && dtype != name_of(point.dtype)) {
      input.refuse(path, text("is ", name_of(point.dtype), " where /statistics/dtypes says \"", dtype, "\""));
    }
    const std::optional<Dtype> floating = find_dtype(dtype);
    if (!floating && dtype != name_of(Dtype::i32)) {
      input.refuse("/statistics/dtypes", text("element ", index, " is \"", dtype, "\", which is no dtype"));
    }
    point.dtype = floating.value_or(Dtype::i32);
  }
  if (point.width < 1 || point.width > kMaxWidth || contents.prompts.num_tokens() > kMaxElements / point.width) {
    input.refuse(path, text("its width is ", point.width, ", of ", contents.prompts.num_tokens(), " tokens"));
  }
  contents.captures.push_back(found ? found->extent : Extent{});
  contents.points.push_back({.point = std::move(point), .stored = found.has_value()});
}

void read_points(Input& input, Contents& contents) {
  const Found points = input.dataset("/statistics", "points");
  if (const std::uint64_t count = points.extent.bytes / points.type.bytes; count > kMaxPoints) {
    input.refuse(points.path, text("lists ", count, " points; at most ", kMaxPoints, " are read"));
  }
  const std::vector<std::string> names = input.read_strings(points);
  const std::int64_t num_points = std::ssize(names);
  input.expect_shape(points, std::array{num_points});
  Declared declared;
  if (const auto dtypes = input.find("/statistics", "dtypes")) {
    input.expect_shape(*dtypes, std::array{num_points});
    declared.dtypes = input.read_strings(*dtypes);
  }
  if (const auto widths = input.find("/statistics", "widths")) {
    input.expect_shape(*widths, std::array{num_points});
    declared.widths = input.read_i64(*widths);
  }
  if (!input.has_group("/captures")) input.refuse("/captures", "is missing");
  std::set<std::string> seen;
  std::uint64_t stored = 0;
  for (const std::string& name : names) {
    if (name.empty() || name == "." || name.find('/') != std::string::npos) {
      input.refuse(points.path,
                   text("element ", contents.points.size(), " is \"", name, "\", which is no point's name"));
    }
    if (!seen.insert(name).second) input.refuse(points.path, text("\"", name, "\" stands twice"));
    read_point(input, contents, name, declared);
    stored += contents.points.back().stored ? 1 : 0;
  }
  if (const std::uint64_t links = input.num_links("/captures"); links != stored) {
    input.refuse("/captures", text("holds ", links, " datasets of which /statistics/points lists ", stored));
  }
}

std::array<Extent, kMeasures.size()> find_measures(Input& input, const std::string& group,
                                                   std::span<const std::int64_t> shape) {
  std::array<Extent, kMeasures.size()> extents;
  for (std::size_t m = 0; m < kMeasures.size(); ++m) {
    const Found found = input.dataset(group, kMeasures[m].name);
    input.expect_element(found, kMeasures[m].integer != nullptr ? Element::i64 : Element::f64);
    input.expect_shape(found, shape);
    extents[m] = found.extent;
  }
  return extents;
}

void find_statistics(Input& input, Contents& contents) {
  const std::array per_prompt = {std::ssize(contents.points), contents.prompts.num_prompts()};
  const std::array per_point = {std::ssize(contents.points)};
  if (input.has_group("/statistics/per_prompt")) {
    contents.per_prompt = find_measures(input, "/statistics/per_prompt", per_prompt);
  }
  const std::optional<Found> mean = input.find("/statistics", "mean");
  if (!mean) return;
  const Found std = input.dataset("/statistics", "std");
  for (const Found* found : {&*mean, &std}) {
    input.expect_element(*found, Element::f64);
    input.expect_shape(*found, per_point);
  }
  contents.mean = mean->extent;
  contents.std = std.extent;
  contents.totals = find_measures(input, "/statistics", per_point);
}

void find_experts(Input& input, Contents& contents) {
  if (!input.has_group("/statistics/experts")) return;
  const Found points = input.dataset("/statistics/experts", "points");
  const std::vector<std::string> names = input.read_strings(points);
  input.expect_shape(points, std::array{std::ssize(names)});
  const Found counts = input.dataset("/statistics/experts", "counts");
  input.expect_element(counts, Element::i64);
  if (counts.shape.size() != 2) {
    input.refuse(counts.path, text("is ", shape_text(counts.shape), " where [points, experts] is expected"));
  }
  contents.num_experts = counts.shape[1];
  input.expect_shape(counts, std::array{std::ssize(names), contents.num_experts});
  contents.expert_counts = counts.extent;
  std::unordered_map<std::string_view, std::size_t> indices;
  for (std::size_t i = 0; i < contents.points.size(); ++i) indices.emplace(contents.points[i].point.name, i);
  for (const std::string& name : names) {
    const auto found = indices.find(name);
    if (found == indices.end() || !holds_experts(contents.points[found->second])) {
      input.refuse(points.path, text("lists \"", name, "\", which is no capture of chosen experts"));
    }
    contents.expert_points.push_back(found->second);
  }
}

void find_top_k(Input& input, Contents& contents) {
  if (!input.has_group("/topk")) return;
  const Found ids = input.dataset("/topk", "ids");
  if (ids.shape.size() != 2) input.refuse(ids.path, text("is ", shape_text(ids.shape), " where [rows, k] is expected"));
  contents.top_k = ids.shape[1];
  const std::array shape = {contents.rows.num_rows(), contents.top_k};
  input.expect_shape(ids, shape);
  input.expect_element(ids, Element::i32);
  const Found logits = input.dataset("/topk", "logits");
  input.expect_shape(logits, shape);
  input.expect_element(logits, Element::f32);
  const Found text_offsets = input.dataset("/topk", "text_offsets");
  input.expect_shape(text_offsets, std::array{shape[0] * shape[1] + 1});
  input.expect_element(text_offsets, Element::i64);
  const Found text_bytes = input.dataset("/topk", "text_bytes");
  input.expect_shape(text_bytes, std::array{shape[0] * shape[1] * kTopKTextBytes});
  input.expect_element(text_bytes, Element::u8);
  contents.top_k_ids = ids.extent;
  contents.top_k_logits = logits.extent;
  contents.top_k_text_offsets = text_offsets.extent;
  contents.top_k_text_bytes = text_bytes.extent;
}

void read_completion(Input& input, Contents& contents) {
  const auto found = input.find("/", "completion");
  if (!found) {
    const std::int64_t num_points = std::ssize(contents.points), num_prompts = contents.prompts.num_prompts();
    if (num_points == 0 || num_prompts <= kMaxUnmarked / num_points) return;
    input.refuse("/completion", text("is missing, of ", num_points, " points and ", num_prompts, " prompts"));
  }
  input.expect_shape(*found, std::array{std::ssize(contents.points), contents.prompts.num_prompts()});
  contents.completed = input.read_u8(*found);
  contents.completion = found->extent;
  for (std::uint8_t& entry : contents.completed) entry = entry == 1 ? 1 : 0;
}

void read_end(Input& input, Contents& contents) {
  const bool all_complete =
      std::find(contents.completed.begin(), contents.completed.end(), std::uint8_t{0}) == contents.completed.end();
  contents.is_finished = all_complete;
  if (!input.has_group("/end")) return;
  const Found finished = input.dataset("/end", "finished");
  input.expect_shape(finished, std::array{std::int64_t{1}});
  contents.is_finished = input.read_u8(finished)[0] == 1;
  const Found information = input.dataset("/end", "information");
  input.expect_shape(information, {});
  const std::string json = input.read_strings(information).at(0);
  contents.end_finished = finished.extent;
  contents.end_information = information.extent;
  if (!contents.is_finished) return;
  if (!all_complete) input.refuse(finished.path, "says that the run is finished where /completion says that it is not");
  if (json.empty()) return;
  const Json parsed = Json::parse(json, input.where(information.path));
  if (!parsed.is_object()) input.refuse(information.path, text("is ", parsed.kind(), " where an object is expected"));
  for (const auto& [name, value] : parsed.members()) {
    Attribute& attribute = contents.attributes[name];
    if (value.is_integer()) {
      attribute = value.integer();
    } else if (value.is_number()) {
      attribute = value.number();
    } else if (value.is_string()) {
      attribute = value.string();
    } else {
      input.refuse(information.path, text(name, " is ", value.kind(), " where a number or a string is expected"));
    }
  }
}

}  // namespace

std::uint64_t Contents::complete_bytes() const {
  std::uint64_t bytes = 0;
  for (std::size_t point = 0; point < points.size(); ++point) {
    if (completed.empty()) bytes += captures[point].bytes;
    if (completed.empty() || !points[point].stored) continue;
    for (std::int64_t prompt = 0; prompt < prompts.num_prompts(); ++prompt) {
      if (!is_complete(point, prompt)) continue;
      bytes += static_cast<std::uint64_t>(first_row(point, prompt + 1) - first_row(point, prompt)) * row_bytes(point);
    }
  }
  return bytes;
}

std::uint64_t Contents::capture_bytes() const {
  std::uint64_t bytes = 0;
  for (const Extent& capture : captures) bytes += capture.bytes;
  return bytes;
}

Contents read_contents(const File& file) {
  Input input(file);
  Contents contents;
  contents.attributes = input.attributes();
  read_version(input, contents.attributes);
  read_prompts(input, contents);
  read_rows(input, contents);
  read_points(input, contents);
  find_statistics(input, contents);
  find_experts(input, contents);
  find_top_k(input, contents);
  read_completion(input, contents);
  read_end(input, contents);
  input.expect_apart();
  return contents;
}

}  // namespace layerprobe::store
