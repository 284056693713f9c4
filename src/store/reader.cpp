#include "store/reader.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "store/contents.h"
#include "store/expert_counts.h"
#include "store/format.h"
#include "store/totals.h"

namespace layerprobe::store {
namespace {

/// A run that was asked for by its final name and has not finished is told apart from one that is not there.
File opened(const std::filesystem::path& path) {
  const std::filesystem::path partial = path.string() + std::string(kPartialSuffix);
  if (!std::filesystem::exists(path) && std::filesystem::exists(partial)) {
    throw Error({.kind = ErrorKind::input,
                 .where = path.string(),
                 .what = "the run that writes it has not finished",
                 .fix = text("finish it with --resume, or name what there is so far: ", partial.string())});
  }
  return File::open_for_reading(path);
}

}  // namespace

struct Reader::State {
  explicit State(const std::filesystem::path& path) : file(opened(path)), contents(read_contents(file)) {
    statistics =
        contents.is_finished && contents.totals ? read_totals(file, contents) : joined_statistics(file, contents);
    for (std::size_t point = 0; point < contents.points.size(); ++point) {
      index.emplace(contents.points[point].point.name, point);
    }
  }

  File file;
  Contents contents;
  std::vector<Statistics> statistics;
  std::unordered_map<std::string, std::size_t> index;
};

Reader::Reader(std::filesystem::path path) : state_(std::make_unique<State>(path)) {}
Reader::~Reader() = default;
Reader::Reader(Reader&&) noexcept = default;

const std::filesystem::path& Reader::path() const { return state_->file.path(); }
bool Reader::is_finished() const { return state_->contents.is_finished; }
const Attributes& Reader::attributes() const { return state_->contents.attributes; }
const Prompts& Reader::prompts() const { return state_->contents.prompts; }
const CapturedRows& Reader::rows() const { return state_->contents.rows; }
const std::vector<Layout::Point>& Reader::points() const { return state_->contents.points; }

std::optional<std::size_t> Reader::find(std::string_view name) const {
  const auto at = state_->index.find(std::string(name));
  if (at == state_->index.end()) return std::nullopt;
  return at->second;
}

bool Reader::is_complete(std::size_t point, std::int64_t prompt) const {
  return state_->contents.is_complete(point, prompt);
}

std::uint64_t Reader::complete_bytes() const { return state_->contents.complete_bytes(); }
std::uint64_t Reader::capture_bytes() const { return state_->contents.capture_bytes(); }
const Statistics& Reader::statistics(std::size_t point) const { return state_->statistics.at(point); }

std::vector<std::int64_t> Reader::expert_counts(std::size_t point) const {
  const Contents& contents = state_->contents;
  const auto found = std::ranges::find(contents.expert_points, point);
  if (!contents.is_finished || found == contents.expert_points.end()) return {};
  return read_expert_counts(state_->file, contents, static_cast<std::size_t>(found - contents.expert_points.begin()));
}

std::vector<Statistics> Reader::statistics_of_prompts(std::size_t point) const {
  expect(has_statistics_of_prompts(), "statistics of prompts are read where they are");
  return statistics_of_point(state_->file, state_->contents, point);
}
bool Reader::has_statistics_of_prompts() const { return state_->contents.per_prompt.has_value(); }

void Reader::read_rows(std::size_t point, std::int64_t first_row, std::int64_t num_rows,
                       std::span<std::byte> out) const {
  const Contents& contents = state_->contents;
  expect(contents.points.at(point).stored, "rows are read of a point that is stored");
  expect(first_row >= 0 && num_rows >= 0 && first_row <= contents.rows.num_rows() - num_rows,
         "rows that are read are in the file");
  const std::uint64_t row_bytes = contents.row_bytes(point);
  expect(out.size() == static_cast<std::uint64_t>(num_rows) * row_bytes, "the rows that are read fill their place");
  state_->file.read_at(contents.captures[point].offset + static_cast<std::uint64_t>(first_row) * row_bytes, out);
}

Reader::TopK Reader::top_k() const {
  const Contents& contents = state_->contents;
  TopK top_k;
  top_k.k = contents.top_k;
  if (top_k.k == 0) return top_k;
  const File& file = state_->file;
  const std::size_t count = contents.top_k_ids.bytes / sizeof(std::int32_t);
  top_k.ids.resize(count);
  top_k.logits.resize(count);
  top_k.texts.resize(count);
  file.read_at(contents.top_k_ids.offset, std::as_writable_bytes(std::span(top_k.ids)));
  file.read_at(contents.top_k_logits.offset, std::as_writable_bytes(std::span(top_k.logits)));
  if (!contents.is_finished) return top_k;  // texts come at the end
  std::vector<std::int64_t> offsets(count + 1);
  file.read_at(contents.top_k_text_offsets.offset, std::as_writable_bytes(std::span(offsets)));
  const auto available = static_cast<std::int64_t>(contents.top_k_text_bytes.bytes);
  for (std::size_t i = 0; i <= count; ++i) {
    const std::int64_t least = i == 0 ? 0 : offsets[i - 1];
    if (offsets[i] >= least && offsets[i] <= available) continue;
    throw Error({.kind = ErrorKind::input,
                 .where = path().string() + ": /topk/text_offsets",
                 .what = text("element ", i, " is ", offsets[i], " where ", least, " to ", available, " is expected"),
                 .fix = "the file is damaged; make or fetch it again"});
  }
  std::string bytes(static_cast<std::size_t>(offsets.back()), '\0');
  file.read_at(contents.top_k_text_bytes.offset, std::as_writable_bytes(std::span(bytes)));
  for (std::size_t i = 0; i < count; ++i) {
    top_k.texts[i] =
        bytes.substr(static_cast<std::size_t>(offsets[i]), static_cast<std::size_t>(offsets[i + 1] - offsets[i]));
  }
  return top_k;
}

}  // namespace layerprobe::store
