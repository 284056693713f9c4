// Two steps: find what each array is (its point, its prompt) and check that all of them make one run; then copy them,
// piece by piece, with their statistics.
#include "runtime/import.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "device/ops.h"
#include "model/config.h"
#include "runtime/array_names.h"
#include "runtime/input.h"
#include "runtime/npy.h"
#include "weights/safetensors.h"

namespace layerprobe::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxArrays = 10'000'000;
constexpr std::uint64_t kPieceBytes = 4 << 20;

Error refuse(std::string where, std::string what, std::string fix) {
  return Error({.kind = ErrorKind::input, .where = std::move(where), .what = std::move(what), .fix = std::move(fix)});
}

/// An array of a file: rows of `width` elements, row r at offset + r * row_stride bytes.
struct Array {
  fs::path file;
  std::string name;  // array_names.h
  std::string where;
  Storage storage = Storage::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;
  std::int64_t rows = 0, width = 0;
  std::uint64_t row_stride = 0;

  std::size_t element_bytes() const { return static_cast<std::size_t>(traits_of(storage).block_bytes); }
};

/// What an array's values are kept as.
Dtype kept_as(const Array& array) {
  switch (array.storage) {
    case Storage::f64:
      return Dtype::f64;
    case Storage::f32:
      return Dtype::f32;
    case Storage::f16:
      return Dtype::f16;
    case Storage::bf16:
      return Dtype::bf16;
    case Storage::i64:
    case Storage::i32:
      return Dtype::i32;
    default:
      throw refuse(array.where,
                   text("holds ", name_of(array.storage), "; F16, BF16, F32, F64, I32 and I64 are imported"),
                   "convert it first; to float32 nothing of a bfloat16 is lost");
  }
}

std::optional<Storage> storage_of_npy(const std::string& type) {
  if (type == "f8") return Storage::f64;
  if (type == "f4") return Storage::f32;
  if (type == "f2") return Storage::f16;
  if (type == "i4") return Storage::i32;
  if (type == "i8") return Storage::i64;
  if (type == "V2") return Storage::bf16;  // numpy has no name for ml_dtypes' bfloat16
  return std::nullopt;
}

/// [1, rows, width] is [rows, width], and [width] one row.
void set_rows(Array& array) {
  std::vector<std::int64_t> shape = array.shape;
  while (shape.size() > 2 && shape.front() == 1) shape.erase(shape.begin());
  if (shape.size() == 1) shape.insert(shape.begin(), 1);
  if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1) {
    throw refuse(array.where, text("has shape ", shape_text(array.shape), "; expected [tokens, width]"),
                 "save each prompt by itself, without padding");
  }
  array.rows = shape[0];
  array.width = shape[1];
  array.row_stride = static_cast<std::uint64_t>(array.width) * array.element_bytes();
}

void add_npy(const fs::path& path, const std::string& name, std::vector<Array>& out) {
  const File file = File::open_for_reading(path);
  const NpyHeader header = read_npy_header(file, "save it again with numpy.save of numpy.ascontiguousarray(values)");
  const std::optional<Storage> storage = storage_of_npy(header.type);
  if (!storage) {
    throw refuse(
        path.string(),
        text("holds numpy's '", header.type, "'; f2, f4, f8, i4, i8 and V2 (ml_dtypes' bfloat16) are imported"),
        "save float32: values of bfloat16 lose nothing by it");
  }
  out.push_back({.file = path,
                 .name = name,
                 .where = path.string(),
                 .storage = *storage,
                 .shape = header.shape,
                 .offset = header.offset});
}

void add_safetensors(const fs::path& path, const std::string& name, std::vector<Array>& out) {
  const File file = File::open_for_reading(path);
  for (const weights::TensorInfo& tensor : weights::read_safetensors_header(file, 0)) {
    out.push_back({.file = path,
                   .name = text(name, "/", tensor.name),
                   .where = text(path.string(), ": ", tensor.name),
                   .storage = tensor.storage,
                   .shape = tensor.shape,
                   .offset = tensor.offset});
  }
}

/// Every array of the sources, in the natural order of their names.
std::vector<Array> arrays_of(const std::vector<std::string>& sources) {
  std::vector<Array> out;
  const auto add = [&](const fs::path& path, const fs::path& folder) {
    const std::string name = path.lexically_relative(folder).replace_extension().generic_string();
    if (path.extension() == ".npy") add_npy(path, name, out);
    if (path.extension() == ".safetensors") add_safetensors(path, name, out);
    if (out.size() > kMaxArrays) {
      throw refuse(folder.string(), text("holds over ", kMaxArrays, " arrays"), "import a part of them");
    }
  };
  for (const std::string& source : sources) {
    std::error_code problem;
    const fs::file_status status = fs::status(source, problem);
    if (!fs::exists(status)) throw refuse(source, "no such file or folder", "check the path");
    if (!fs::is_directory(status)) {
      const std::string ending = fs::path(source).extension().string();
      if (ending != ".npy" && ending != ".safetensors") {
        throw refuse(source, "is neither .npy nor .safetensors", "name such files, or a folder with them");
      }
      add(source, fs::path(source).parent_path());
      continue;
    }
    std::vector<fs::path> files;
    for (auto at = fs::recursive_directory_iterator(source, problem); at != fs::end(at); at.increment(problem)) {
      if (problem) break;
      if (at->is_regular_file(problem)) files.push_back(at->path());
    }
    if (problem) throw refuse(source, "cannot be listed: " + problem.message(), "see whether it may be read");
    std::ranges::sort(files, [](const fs::path& a, const fs::path& b) { return comes_before(a.native(), b.native()); });
    for (const fs::path& path : files) add(path, source);
  }
  if (out.empty()) {
    throw refuse(join(sources, ", "), "holds no .npy and no .safetensors file", "name the folder that has them");
  }
  return out;
}

/// All rows of an array as numbers, for token ids.
std::vector<std::int32_t> ids_of(const Array& array) {
  if (array.storage != Storage::i64 && array.storage != Storage::i32) {
    throw refuse(array.where, text("holds ", name_of(array.storage), "; token ids are I32 or I64"), "save int64 ids");
  }
  std::int64_t count = 1;
  for (const std::int64_t size : array.shape) count *= size;
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * array.element_bytes());
  File::open_for_reading(array.file).read_at(array.offset, bytes);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t id = 0;
    if (array.storage == Storage::i64) {
      std::memcpy(&id, bytes.data() + static_cast<std::size_t>(i) * sizeof id, sizeof id);
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, bytes.data() + static_cast<std::size_t>(i) * sizeof narrow, sizeof narrow);
      id = narrow;
    }
    if (id < 0 || id > std::numeric_limits<std::int32_t>::max()) {
      throw refuse(array.where, text("element ", i, " is ", id, "; expected a token id, 0 to 2^31 - 1"),
                   "save the ids of the tokens themselves");
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

struct NaturalOrder {
  bool operator()(const std::string& a, const std::string& b) const { return comes_before(a, b); }
};

/// What was found: a point's arrays by prompt, or the one of all prompts.
struct Found {
  std::map<std::string, std::map<std::string, Array, NaturalOrder>> by_prompt;  // of each point
  std::map<std::string, Array> whole;
  std::map<std::string, std::vector<std::int32_t>, NaturalOrder> ids;  // by prompt; "" of a whole
  std::vector<std::string> left_out;
};

Found matched(std::vector<Array> arrays, const std::vector<std::string>& map) {
  std::vector<NamePattern> patterns;
  for (const std::string& each : map) patterns.emplace_back(each);
  if (map.empty()) {
    patterns.emplace_back("{prompt}/{point}");
    patterns.emplace_back("{point}");
  }
  Found out;
  for (Array& array : arrays) {
    std::optional<NamePattern::Match> match;
    for (const NamePattern& pattern : patterns) {
      if ((match = pattern.match(array.name))) break;
    }
    const bool is_point = match && (!map.empty() || match->point.starts_with("model.") ||
                                    match->point.starts_with("lm_head") || match->point == "input_ids");
    if (!is_point) {
      out.left_out.push_back(array.name);
      continue;
    }
    const auto twice = [&](const Array& other) {
      return refuse(array.where, text("is ", match->point, " as ", other.where, " is, of the same prompt"),
                    "give a --map that tells them apart");
    };
    if (match->point == "input_ids") {
      if (!out.ids.emplace(match->prompt.value_or(""), ids_of(array)).second) throw twice(array);
      continue;
    }
    if (match->point.find('/') != std::string::npos || match->point.size() > 1000) {
      throw refuse(array.where, text("would be the point \"", match->point, "\", which is no name of one"),
                   "give a --map to names as model.layers.3.mlp");
    }
    set_rows(array);
    kept_as(array);
    if (!match->prompt) {
      const auto [at, is_new] = out.whole.emplace(match->point, array);
      if (!is_new) throw twice(at->second);
    } else {
      const auto [at, is_new] = out.by_prompt[match->point].emplace(*match->prompt, array);
      if (!is_new) throw twice(at->second);
    }
  }
  if (!out.whole.empty() || !out.by_prompt.empty()) return out;
  out.left_out.resize(std::min<std::size_t>(out.left_out.size(), 3));
  throw refuse(arrays.front().file.string(),
               text("no array's name is that of a point; there are ", join(out.left_out, ", "), ", ..."),
               "say what they are: --map 'layer_{layer} = model.layers.{layer}'");
}

std::vector<std::int64_t> layer_ids(const std::string& given) {
  std::vector<std::int64_t> out;
  for (const std::string& word : split(given, ',')) {
    const std::string_view number = trimmed(word);
    std::int64_t id = -1;
    const auto [end, problem] = std::from_chars(number.data(), number.data() + number.size(), id);
    if (problem != std::errc{} || end != number.data() + number.size() || id < 0 || id > 100000) {
      throw Error({.kind = ErrorKind::usage,
                   .where = text("--vllm-layers ", given),
                   .what = text("\"", number, "\" is no layer id"),
                   .fix = "give eagle_aux_hidden_state_layer_ids as the server had them, as 1,2,36"});
    }
    out.push_back(id);
  }
  return out;
}

/// vLLM's: each file a prompt, its layers one point each.
Found of_vllm(std::vector<Array> arrays, const std::string& given) {
  const std::vector<std::int64_t> ids = layer_ids(given);
  Found out;
  for (Array& array : arrays) {
    const std::size_t slash = array.name.rfind('/');
    const std::string prompt = array.name.substr(0, slash);
    const std::string tensor = slash == std::string::npos ? "" : array.name.substr(slash + 1);
    if (tensor == "token_ids") {
      out.ids.emplace(prompt, ids_of(array));
    } else if (tensor != "hidden_states") {
      out.left_out.push_back(array.name);
    } else {
      const auto layers = static_cast<std::int64_t>(ids.size());
      if (array.shape.size() != 3 || array.shape[1] != layers || array.shape[0] < 1 || array.shape[2] < 1) {
        throw refuse(array.where,
                     text("has shape ", shape_text(array.shape), " where --vllm-layers names ", layers,
                          " layers: [tokens, ", layers, ", hidden_size]"),
                     "give eagle_aux_hidden_state_layer_ids as the server had them");
      }
      kept_as(array);
      array.rows = array.shape[0];
      array.width = array.shape[2];
      const std::uint64_t bytes = static_cast<std::uint64_t>(array.width) * array.element_bytes();
      array.row_stride = bytes * ids.size();
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const std::string point = ids[i] == 0 ? std::string("model.embed_tokens") : text("model.layers.", ids[i] - 1);
        Array layer = array;
        layer.offset += i * bytes;
        if (out.by_prompt[point].emplace(prompt, std::move(layer)).second) continue;
        throw Error({.kind = ErrorKind::usage,
                     .where = "--vllm-layers " + given,
                     .what = text("names ", ids[i], " twice"),
                     .fix = "give eagle_aux_hidden_state_layer_ids as the server had them"});
      }
    }
  }
  if (!out.by_prompt.empty()) return out;
  throw refuse(arrays.front().file.string(), "holds no tensor hidden_states, as vLLM's connector writes it",
               "leave --vllm-layers out for other files");
}

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
    throw refuse(options.input_ids_file,
                 text("has ", prompts.num_prompts(), " prompts where the arrays are of ", keys.size()),
                 "give the ids of exactly the imported prompts, in their order");
  }
  Prompts prompts;
  for (const std::string& key : keys) {
    const Array& first = found.by_prompt.begin()->second.at(key);
    const auto ids = found.ids.find(key);
    if (ids == found.ids.end() && !found.ids.empty()) {
      throw refuse(first.where, text("is of prompt ", key, ", which has no token ids"), "save the ids of every prompt");
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

/// Rows of an array, packed, in the dtype they are kept as.
void read_rows(const Array& array, const File& file, std::int64_t first, std::int64_t count,
               std::vector<std::byte>& out) {
  const std::size_t row_bytes = static_cast<std::size_t>(array.width) * array.element_bytes();
  out.resize(static_cast<std::size_t>(count) * row_bytes);
  const std::uint64_t begin = array.offset + static_cast<std::uint64_t>(first) * array.row_stride;
  if (array.row_stride == row_bytes) {
    file.read_at(begin, out);
  } else {
    for (std::size_t row = 0; row < static_cast<std::size_t>(count); ++row) {
      file.read_at(begin + row * array.row_stride, std::span(out).subspan(row * row_bytes, row_bytes));
    }
  }
  if (array.storage != Storage::i64) return;
  for (std::size_t i = 0; i < out.size() / 8; ++i) {
    std::int64_t wide = 0;
    std::memcpy(&wide, out.data() + i * 8, 8);
    const auto narrow = static_cast<std::int32_t>(wide);
    if (narrow != wide) {
      throw refuse(
          array.where,
          text("row ", first + static_cast<std::int64_t>(i) / array.width, " holds ", wide, ", which is no int32"),
          "integers are kept as int32; leave this array out");
    }
    std::memcpy(out.data() + i * 4, &narrow, 4);
  }
  out.resize(out.size() / 2);
}

std::int64_t rows_at_once(const Array& array) {
  const auto row_bytes = static_cast<std::uint64_t>(array.width) * array.element_bytes();
  return static_cast<std::int64_t>(std::max<std::uint64_t>(1, kPieceBytes / row_bytes));
}

/// Before anything is written: every number of an I64 array is an int32.
void check_integers(const Array& array) {
  if (array.storage != Storage::i64) return;
  const File file = File::open_for_reading(array.file);
  std::vector<std::byte> piece;
  for (std::int64_t row = 0; row < array.rows; row += rows_at_once(array)) {
    read_rows(array, file, row, std::min(rows_at_once(array), array.rows - row), piece);
  }
}

/// Checks that the arrays make one run.
Plan plan_of(const Found& found, const ImportOptions& options) {
  if (!found.whole.empty() && !found.by_prompt.empty()) {
    throw refuse(found.whole.begin()->second.where,
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
        throw refuse(arrays.begin()->second.file.parent_path().string(),
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
        throw refuse(array.where,
                     text("has ", array.rows, " rows where ", of, " has ", num_rows,
                          options.tokens == "last" ? ", one a prompt" : ", one a token"),
                     options.tokens == "last" ? "leave --tokens last out where every token has its row"
                                              : "give the prompts' ids with --input-ids, or --tokens last");
      }
      if (first == nullptr) first = &array;
      check_integers(array);
      if (array.width == first->width && array.storage == first->storage) return;
      throw refuse(array.where,
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
    throw refuse(array.where, "is an array and the file to be made of them", "choose another OUT.h5");
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
