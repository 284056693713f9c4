#include "store/writer.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "store/contents.h"
#include "store/create.h"
#include "store/expert_counts.h"
#include "store/format.h"
#include "store/hdf5.h"
#include "store/row_sink.h"
#include "store/same_run.h"
#include "store/totals.h"

namespace layerprobe::store {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxPending = 65536;  // statistics kept in memory between commits, 5.8 MB

struct PendingStatistics {
  std::size_t index;  // point * num_prompts + prompt
  Statistics statistics;
};

fs::path partial_path(const fs::path& path) { return path.string() + std::string(kPartialSuffix); }

/// The name of a file that is not valid yet: the same in every run, so that what a crash left behind is used again.
fs::path unready_path(const fs::path& path) {
  return path.parent_path() / text(".", path.filename().string(), kPartialSuffix, ".new");
}

Error usage_error(const fs::path& path, const char* what, const char* fix) {
  return Error({.kind = ErrorKind::usage, .where = path.string(), .what = what, .fix = fix});
}

void expect_lock(const File& file) {
  if (file.try_lock()) return;
  throw usage_error(file.path(), "another run is writing it", "wait for it to end, or choose another --output");
}

void expect_possible_name(const fs::path& path) {
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (!fs::is_directory(folder)) {
    throw usage_error(path, "is in a folder that does not exist", "make the folder, or choose another --output");
  }
  if (fs::exists(path) && !fs::is_regular_file(path)) {
    throw usage_error(path, "is no regular file", "choose another --output");
  }
}

void expect_untouched(const fs::path& path) {
  if (fs::exists(path)) {
    throw usage_error(path, "exists already", "--overwrite replaces it; or choose another --output");
  }
  if (fs::exists(partial_path(path))) {
    throw usage_error(partial_path(path), "holds a run that did not finish",
                      "--resume continues it, --overwrite starts afresh; or choose another --output");
  }
}

std::uint64_t size_or_zero(const fs::path& path) {
  std::error_code missing;
  const std::uintmax_t size = fs::file_size(path, missing);
  return missing ? 0 : size;
}

/// `reclaimed`: bytes of files that make way for this one.
void expect_space(const fs::path& path, const Layout& layout, std::uint64_t reclaimed) {
  const std::uint64_t needed = planned_bytes(layout);
  const std::uint64_t free = free_bytes(path);
  if (needed <= free || needed - free <= reclaimed) return;
  throw Error(
      {.kind = ErrorKind::resource,
       .where = path.string(),
       .what = text("takes ", bytes_text(needed), " where the disk has ", bytes_text(free + reclaimed), " free"),
       .fix = "make space, choose an --output on another disk, or keep less: --layers, --capture, --tokens"});
}

/// Reads back what was just made: what HDF5 kept to itself must not get a name that promises a valid file.
Contents expect_made(const File& file, const Layout& layout) {
  try {
    Contents contents = read_contents(file);
    expect_same_run(file.path(), contents, layout);
    return contents;
  } catch (const Error& error) {
    throw Error({.kind = ErrorKind::resource,
                 .where = file.path().string(),
                 .what = text("is not on the disk as it was written: ", error.parts().what),
                 .fix = "check the disk, or choose another --output"});
  }
}

/// A new partial file, valid from the moment it has that name.
File create_partial(const fs::path& path, const Layout& layout, bool overwrite) {
  const fs::path unready = unready_path(path);
  expect_space(path, layout, size_or_zero(unready) + size_or_zero(partial_path(path)));
  File file = File::open_or_create(unready);
  expect_lock(file);
  try {
    if (fs::exists(partial_path(path))) {
      if (!overwrite) expect_untouched(path);  // it came while we looked
      expect_lock(File::open_for_writing(partial_path(path)));
      remove_file(partial_path(path));
    }
    create_file(unready, layout);
    set_space_aside(file, expect_made(file, layout));
    file.sync_data();
    file.move_to(partial_path(path));
  } catch (...) {
    std::error_code ignored;  // the reason for the failure matters more
    fs::remove(unready, ignored);
    throw;
  }
  return file;
}

/// What a Writer needs is all there: of our own files it always is.
void expect_ours(const File& file, const Contents& contents) {
  const bool has_all = contents.completion && contents.per_prompt && contents.totals && contents.end_finished;
  if (has_all && contents.end_information->bytes == kEndInformationBytes) return;
  throw Error({.kind = ErrorKind::input,
               .where = file.path().string(),
               .what = "was not written by layerprobe: /completion, /statistics or /end is missing or of another size",
               .fix = "choose another --output, or --overwrite to replace it"});
}

/// `text` up to `max_bytes`, not within a character of UTF-8.
std::string_view cut(std::string_view text, std::size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  while (max_bytes > 0 && (static_cast<unsigned char>(text[max_bytes]) & 0xc0) == 0x80) --max_bytes;
  return text.substr(0, max_bytes);
}

std::string json_of(const Attributes& attributes) {
  Json json(Json::Object{});
  for (const auto& [name, value] : attributes) {
    std::visit([&, &name = name](const auto& held) { json.set(name, Json(held)); }, value);
  }
  return json.dump();
}

template <typename T>
std::span<const std::byte> bytes_of(const T& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

std::string hdf5_version() {
  hdf5::prepare();
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return text(major, ".", minor, ".", release);
}

struct Writer::State {
  State(fs::path final_path, File opened)
      : path(std::move(final_path)),
        file(std::move(opened)),
        contents(read_contents(file)),
        resumed(contents.completed),
        resumed_bytes(contents.complete_bytes()) {}

  fs::path path;
  File file;
  Contents contents;                        // `completed` is what is on disk for sure now: commit's alone
  const std::vector<std::uint8_t> resumed;  // what was when this Writer was made
  const std::uint64_t resumed_bytes;

  std::mutex mutex;  // of the pending
  std::vector<PendingStatistics> pending_statistics;
  std::vector<std::size_t> pending_marks;

  std::optional<RowSink> rows;  // nothing when the run is finished

  std::size_t checked_index(std::size_t point, std::int64_t prompt) const {
    expect(point < contents.points.size() && prompt >= 0 && prompt < contents.prompts.num_prompts(),
           "a point and a prompt are in the layout");
    return contents.index(point, prompt);
  }

  /// Where such rows begin in their dataset.
  std::uint64_t begin_of_rows(std::size_t point, std::int64_t first_row, std::size_t bytes) const {
    expect(point < contents.points.size() && contents.points[point].stored,
           "rows are written of a point that is stored");
    const std::uint64_t begin = static_cast<std::uint64_t>(first_row) * contents.row_bytes(point);
    const Extent& extent = contents.captures[point];
    expect(first_row >= 0 && begin <= extent.bytes && bytes <= extent.bytes - begin, "rows lie in their dataset");
    expect(bytes % contents.row_bytes(point) == 0, "rows are whole");
    return begin;
  }

  void write_statistics(std::vector<PendingStatistics> pending) const;
  void write_marks(std::vector<std::size_t> marks);
};

/// One write for each measure of entries that lie side by side.
void Writer::State::write_statistics(std::vector<PendingStatistics> pending) const {
  std::sort(pending.begin(), pending.end(), [](const auto& a, const auto& b) { return a.index < b.index; });
  std::vector<std::uint64_t> bits;
  for (std::size_t begin = 0, end = 0; begin < pending.size(); begin = end) {
    end = begin + 1;
    while (end < pending.size() && pending[end].index == pending[end - 1].index + 1) ++end;
    for (std::size_t m = 0; m < kMeasures.size(); ++m) {
      bits.clear();
      for (std::size_t i = begin; i < end; ++i) bits.push_back(kMeasures[m].bits_of(pending[i].statistics));
      file.write_at((*contents.per_prompt)[m].offset + pending[begin].index * sizeof(std::uint64_t), bytes_of(bits));
    }
  }
}

void Writer::State::write_marks(std::vector<std::size_t> marks) {
  std::sort(marks.begin(), marks.end());
  for (const std::size_t index : marks) contents.completed[index] = 1;
  for (std::size_t begin = 0, end = 0; begin < marks.size(); begin = end) {
    end = begin + 1;
    while (end < marks.size() && marks[end] <= marks[end - 1] + 1) ++end;
    const std::size_t first = marks[begin], last = marks[end - 1];
    file.write_at(contents.completion->offset + first, bytes_of(contents.completed).subspan(first, last - first + 1));
  }
}

Writer::Writer(fs::path path, const Layout& layout, IfExists if_exists) {
  expect_consistent(layout);
  expect_possible_name(path);
  if (if_exists == IfExists::refuse) expect_untouched(path);
  const bool continues = if_exists == IfExists::resume && fs::exists(partial_path(path));
  if (if_exists == IfExists::resume && !continues && fs::exists(path)) {
    state_ = std::make_unique<State>(path, File::open_for_reading(path));
    expect_same_run(path, state_->contents, layout);
    if (!state_->contents.is_finished) {
      throw usage_error(path, "holds a run that did not finish, under the name of one that did",
                        text("rename it to ", partial_path(path).string(), " to continue it").c_str());
    }
    return;
  }
  if (!continues) {
    state_ = std::make_unique<State>(path, create_partial(path, layout, if_exists == IfExists::overwrite));
    state_->rows.emplace(state_->file, state_->contents);
    return;
  }
  File file = File::open_for_writing(partial_path(path));
  expect_lock(file);
  state_ = std::make_unique<State>(path, std::move(file));
  expect_ours(state_->file, state_->contents);
  expect_same_run(state_->file.path(), state_->contents, layout);
  if (state_->contents.is_finished) {  // all was done but the last rename
    state_->file.move_to(path);
    return;
  }
  set_space_aside(state_->file, state_->contents);  // a copy of a partial file may have lost the space it had
  state_->rows.emplace(state_->file, state_->contents);
}

Writer::~Writer() = default;
Writer::Writer(Writer&&) noexcept = default;

bool Writer::is_finished() const { return state_->contents.is_finished; }

bool Writer::is_complete(std::size_t point, std::int64_t prompt) const {
  return state_->resumed[state_->checked_index(point, prompt)] == 1;
}

std::uint64_t Writer::resumed_bytes() const { return state_->resumed_bytes; }
std::uint64_t Writer::complete_bytes() const { return state_->contents.complete_bytes(); }
std::uint64_t Writer::capture_bytes() const { return state_->contents.capture_bytes(); }
double Writer::waited_seconds() const { return state_->rows ? state_->rows->waited_seconds() : 0; }

std::uint64_t Writer::offset_of_row(std::size_t point, std::int64_t row) const {
  return state_->contents.captures[point].offset + state_->begin_of_rows(point, row, 0);
}

void Writer::write_rows(std::size_t point, std::int64_t first_row, std::span<const std::byte> rows) {
  state_->rows->write(point, state_->begin_of_rows(point, first_row, rows.size()), rows);
}

void Writer::read_rows(std::size_t point, std::int64_t first_row, std::span<std::byte> rows) const {
  const std::uint64_t begin = state_->begin_of_rows(point, first_row, rows.size());
  state_->file.read_at(state_->contents.captures[point].offset + begin, rows);
}

void Writer::write_statistics(std::size_t point, std::int64_t prompt, const Statistics& statistics) {
  const std::size_t index = state_->checked_index(point, prompt);
  const Contents& contents = state_->contents;
  const std::int64_t rows = contents.first_row(point, prompt + 1) - contents.first_row(point, prompt);
  expect(impossible_measure(statistics, rows, contents.points[point].point.width) == nullptr,
         "statistics are of the prompt's rows, which are counted from its first");
  const std::lock_guard lock(state_->mutex);
  state_->pending_statistics.push_back({.index = index, .statistics = statistics});
  if (state_->pending_statistics.size() < kMaxPending) return;
  state_->write_statistics(std::exchange(state_->pending_statistics, {}));
}

void Writer::write_top_k(std::int64_t row, std::span<const std::int32_t> ids, std::span<const float> logits) {
  const Contents& contents = state_->contents;
  const auto top_k = static_cast<std::size_t>(contents.top_k);
  expect(ids.size() == top_k && logits.size() == top_k, "a row of /topk has top_k entries");
  expect(row >= 0 && row < contents.rows.num_rows(), "a row of /topk is a captured row");
  const std::uint64_t begin = static_cast<std::uint64_t>(row) * top_k * sizeof(std::int32_t);
  state_->file.write_at(contents.top_k_ids.offset + begin, std::as_bytes(ids));
  state_->file.write_at(contents.top_k_logits.offset + begin, std::as_bytes(logits));
}

void Writer::mark_complete(std::size_t point, std::int64_t prompt) {
  const std::size_t index = state_->checked_index(point, prompt);
  const std::lock_guard lock(state_->mutex);
  state_->pending_marks.push_back(index);
}

void Writer::commit() {
  std::unique_lock lock(state_->mutex);
  std::vector<PendingStatistics> statistics = std::exchange(state_->pending_statistics, {});
  std::vector<std::size_t> marks = std::exchange(state_->pending_marks, {});
  lock.unlock();
  state_->write_statistics(std::move(statistics));
  if (!marks.empty()) {
    state_->file.sync_data();
    state_->write_marks(std::move(marks));
    state_->file.sync_data();
  }
  state_->rows->check();  // last: what there is of a run that cannot go on is kept
}

std::vector<Statistics> Writer::statistics() const { return joined_statistics(state_->file, state_->contents); }

std::vector<std::int32_t> Writer::top_k_ids() const {
  std::vector<std::int32_t> ids(state_->contents.top_k_ids.bytes / sizeof(std::int32_t));
  state_->file.read_at(state_->contents.top_k_ids.offset, std::as_writable_bytes(std::span(ids)));
  return ids;
}

void Writer::write_top_k_texts(std::span<const std::string> texts) {
  const Contents& contents = state_->contents;
  expect(texts.size() == contents.top_k_ids.bytes / sizeof(std::int32_t), "every entry of /topk has a text");
  std::string bytes;
  std::vector<std::int64_t> offsets = {0};
  for (const std::string& text : texts) {
    bytes += cut(text, kTopKTextBytes);
    offsets.push_back(static_cast<std::int64_t>(bytes.size()));
  }
  state_->file.write_at(contents.top_k_text_offsets.offset, bytes_of(offsets));
  state_->file.write_at(contents.top_k_text_bytes.offset, bytes_of(bytes));
}

void Writer::finish(const Attributes& information) {
  State& state = *state_;
  commit();
  const std::vector<std::uint8_t>& completed = state.contents.completed;
  expect(std::find(completed.begin(), completed.end(), std::uint8_t{0}) == completed.end(),
         "a run that finishes is complete");
  state.rows->stop();
  write_totals(state.file, state.contents, statistics());
  if (!state.contents.expert_points.empty()) {
    state.file.write_at(state.contents.expert_counts.offset, bytes_of(count_experts(state.file, state.contents)));
  }
  std::string json = json_of(information);
  expect(json.size() <= state.contents.end_information->bytes, "what is known at the end fits its place");
  json.resize(state.contents.end_information->bytes, '\0');
  state.file.write_at(state.contents.end_information->offset, bytes_of(json));
  state.file.sync_data();
  state.file.write_at(state.contents.end_finished->offset, std::as_bytes(std::span("\1", 1)));
  state.file.sync_data();
  state.file.move_to(state.path);
  state.contents.is_finished = true;
}

}  // namespace layerprobe::store
