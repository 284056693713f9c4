#include "runtime/hidden_states.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/float16.h"
#include "base/sha256.h"
#include "base/text.h"
#include "runtime/random.h"

namespace layerprobe::runtime {
namespace {

double value_at(const std::byte* values, Dtype dtype, std::size_t index) {
  switch (dtype) {
    case Dtype::f64:
      return reinterpret_cast<const double*>(values)[index];
    case Dtype::f32:
      return reinterpret_cast<const float*>(values)[index];
    case Dtype::f16:
      return f32_of_f16(reinterpret_cast<const std::uint16_t*>(values)[index]);
    case Dtype::bf16:
      return f32_of_bf16(reinterpret_cast<const std::uint16_t*>(values)[index]);
    case Dtype::i32:
      return reinterpret_cast<const std::int32_t*>(values)[index];
  }
  return 0;
}

void set_value(std::byte* values, Dtype dtype, std::size_t index, double value) {
  switch (dtype) {
    case Dtype::f64:
      reinterpret_cast<double*>(values)[index] = value;
      break;
    case Dtype::f32:
      reinterpret_cast<float*>(values)[index] = static_cast<float>(value);
      break;
    case Dtype::f16:
      reinterpret_cast<std::uint16_t*>(values)[index] = f16_of_f32(static_cast<float>(value));
      break;
    case Dtype::bf16:
      reinterpret_cast<std::uint16_t*>(values)[index] = bf16_of_f32(static_cast<float>(value));
      break;
    case Dtype::i32:
      expect(false, "hidden states are floating numbers");
  }
}

/// Does every token have its row, in order?
bool has_all_tokens(const store::Reader& file) {
  const CapturedRows& rows = file.rows();
  if (rows.cu_rows != file.prompts().cu_seqlens) return false;
  for (std::int64_t prompt = 0; prompt < file.prompts().num_prompts(); ++prompt) {
    for (std::int64_t i = 0; i < file.prompts().length(prompt); ++i) {
      const std::int64_t row = rows.cu_rows[static_cast<std::size_t>(prompt)] + i;
      if (rows.position[static_cast<std::size_t>(row)] != i) return false;
    }
  }
  return true;
}

/// SHA-256, in lower-case hex, of a few rows of each point, as far as there are not very many.
std::string sample_hash(const store::Reader& file) {
  constexpr std::size_t kMostPoints = 512;
  constexpr std::int64_t kMostRows = 8;
  Sha256 sha;
  const std::int64_t num_rows = file.rows().num_rows(), count = std::min(num_rows, kMostRows);
  std::vector<std::byte> bytes;
  for (std::size_t point = 0; point < std::min(file.points().size(), kMostPoints); ++point) {
    const store::Layout::Point& each = file.points()[point];
    if (!each.stored) continue;
    bytes.resize(static_cast<std::size_t>(each.point.width) * size_of(each.point.dtype));
    for (std::int64_t i = 0; i < count; ++i) {
      file.read_rows(point, i * num_rows / count, 1, bytes);
      sha.add({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
  }
  return sha.hex();
}

}  // namespace

HiddenStates::HiddenStates(const InputOptions& options, const model::ModelConfig& config,
                           const std::optional<Shard>& shard)
    : hidden_size_(config.hidden_size) {
  if (!options.random_hidden_states.empty()) {
    random_ = parse_random_shape(options.random_hidden_states, "--random-hidden-states");
    prompts_ = prompts_without_ids(random_);
  } else {
    file_.emplace(options.hidden_states_file);
    prompts_ = file_->prompts();
    if (!has_all_tokens(*file_)) {
      throw Error({.kind = ErrorKind::input,
                   .where = options.hidden_states_file,
                   .what = "holds a selection of tokens; a layer needs the hidden states of all",
                   .fix = "capture it again with --tokens all"});
    }
  }
  if (!shard) return;
  Sha256 hash;
  hash.add(identity());
  part_ = part_of(*shard, prompts_.num_prompts(), hash.hex());
  first_token_ = prompts_.cu_seqlens[static_cast<std::size_t>(part_->first_prompt)];
  prompts_ = slice(prompts_, part_->first_prompt, part_->num_prompts);
}

std::string HiddenStates::identity() const {
  if (!file_) return text("random hidden states ", random_.num_prompts, "x", random_.num_tokens, ":", random_.seed);
  std::string out = text("hidden states of ", std::filesystem::absolute(file_->path()).string());
  for (const char* name : {"model_hash", "start_time"}) {
    const auto found = file_->attributes().find(name);
    if (found == file_->attributes().end()) continue;
    if (const auto* value = std::get_if<std::string>(&found->second)) out += text(", ", name, " ", *value);
  }
  return out + text(", sample ", sample_hash(*file_));
}

std::size_t HiddenStates::point_for(std::int64_t layer) const {
  std::vector<std::string> names = {text("model.layers.", layer, ":input")};
  names.push_back(layer == 0 ? std::string("model.embed_tokens") : text("model.layers.", layer - 1));
  constexpr std::string_view kModel = "model.";
  for (const std::string& name : names) {
    for (const std::string& spelling : {name, "model.language_model." + name.substr(kModel.size())}) {
      const std::optional<std::size_t> point = file_->find(spelling);
      if (point && file_->points()[*point].stored) return *point;
    }
  }
  throw Error({.kind = ErrorKind::input,
               .where = file_->path().string(),
               .what = text("holds neither ", names[0], " nor ", names[1], ", which layer ", layer, " is fed"),
               .fix = "layerprobe inspect shows what is in it"});
}

void HiddenStates::check(std::int64_t layer) const {
  if (!file_) return;
  const std::size_t point = point_for(layer);
  const ProbePoint& found = file_->points()[point].point;
  if (found.width != hidden_size_) {
    throw Error({.kind = ErrorKind::input,
                 .where = text(file_->path().string(), ": ", found.name),
                 .what = text("rows are ", found.width, " wide where the model's hidden_size is ", hidden_size_),
                 .fix = "use a capture of the same model"});
  }
  const std::int64_t first = part_ ? part_->first_prompt : 0;
  for (std::int64_t prompt = first; prompt < first + prompts_.num_prompts(); ++prompt) {
    if (file_->is_complete(point, prompt)) continue;
    throw Error({.kind = ErrorKind::input,
                 .where = text(file_->path().string(), ": ", found.name),
                 .what = text("prompt ", prompt, " is not complete"),
                 .fix = "finish that run first, with --resume"});
  }
}

void HiddenStates::read(std::int64_t layer, std::int64_t first_token, std::int64_t num_tokens, Dtype dtype,
                        std::span<std::byte> out) const {
  const auto count = static_cast<std::size_t>(num_tokens * hidden_size_);
  expect(out.size() == count * size_of(dtype), "the rows fill the memory they are read to");
  first_token += first_token_;
  if (!file_) {
    std::vector<double> values(count);
    random_normal(random_.seed, static_cast<std::uint64_t>(first_token * hidden_size_), values);
    for (std::size_t i = 0; i < count; ++i) set_value(out.data(), dtype, i, values[i]);
    return;
  }
  const std::size_t point = point_for(layer);
  const Dtype stored = file_->points()[point].point.dtype;
  std::vector<std::byte> rows(count * size_of(stored));
  file_->read_rows(point, first_token, num_tokens, rows);
  if (stored == dtype) {
    std::memcpy(out.data(), rows.data(), rows.size());
    return;
  }
  for (std::size_t i = 0; i < count; ++i) set_value(out.data(), dtype, i, value_at(rows.data(), stored, i));
}

}  // namespace layerprobe::runtime
