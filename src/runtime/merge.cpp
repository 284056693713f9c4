#include "runtime/merge.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "runtime/session.h"
#include "runtime/shard.h"
#include "store/format.h"
#include "store/reader.h"
#include "store/same_run.h"

namespace layerprobe::runtime {
namespace {

namespace fs = std::filesystem;
using store::Attribute;
using store::Attributes;
using store::Layout;
using store::Reader;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kCopiedBytes = 16 << 20;  // at once
constexpr double kCommitSeconds = 10;
constexpr std::size_t kMaxJoined = 8192;  // bytes of an attribute that shards have different values of

const std::set<std::string> kOfShard = {kShard, kShardFirstPrompt, kShardWholePrompts, kShardWholeInput};
const std::set<std::string> kAtEnd = {"end_time", "load_seconds", "run_seconds"};

/// What a file says of itself. It is not kept open: there may be more shards than a process may have files.
struct ShardFile {
  fs::path path;
  Attributes attributes;
  std::vector<Layout::Point> points;
  Prompts prompts;
  CapturedRows rows;
  std::int64_t top_k = 0;
  std::int64_t num_experts = 0;  // that its points with chosen experts count
  Shard shard = {};
  std::int64_t first_prompt = 0;  // of the whole input
  std::int64_t whole_prompts = 0;

  std::int64_t end_prompt() const { return first_prompt + prompts.num_prompts(); }
};

[[noreturn]] void refuse(const fs::path& path, std::string what, std::string fix) {
  throw Error({.kind = ErrorKind::input, .where = path.string(), .what = std::move(what), .fix = std::move(fix)});
}

template <typename T>
const T& attribute(const ShardFile& shard, const char* name) {
  const auto found = shard.attributes.find(name);
  const T* value = found == shard.attributes.end() ? nullptr : std::get_if<T>(&found->second);
  if (value != nullptr) return *value;
  refuse(shard.path, text("is no shard of a run: it has no attribute ", name),
         "name files that layerprobe run --shard INDEX/COUNT wrote");
}

bool has_means(const CapturedRows& rows) { return std::ranges::find(rows.position, -1) != rows.position.end(); }

ShardFile open_shard(const fs::path& path) {
  const Reader reader(path);
  if (!reader.is_finished()) {
    refuse(path, "is a run that has not finished", "finish it with --resume, and name the file that it then is");
  }
  ShardFile shard{.path = path,
                  .attributes = reader.attributes(),
                  .points = reader.points(),
                  .prompts = reader.prompts(),
                  .rows = reader.rows(),
                  .top_k = reader.top_k().k};
  for (std::size_t point = 0; point < shard.points.size() && shard.num_experts == 0; ++point) {
    shard.num_experts = std::ssize(reader.expert_counts(point));
  }
  const std::string& part = attribute<std::string>(shard, kShard);
  try {
    shard.shard = parse_shard(part);
  } catch (const Error& error) {
    throw error.within(path.string());
  }
  attribute<std::string>(shard, kShardWholeInput);
  shard.first_prompt = attribute<std::int64_t>(shard, kShardFirstPrompt);
  shard.whole_prompts = attribute<std::int64_t>(shard, kShardWholePrompts);
  const std::int64_t count = shard.prompts.num_prompts();
  const bool fits =
      shard.first_prompt >= 0 && count <= shard.whole_prompts && shard.first_prompt <= shard.whole_prompts - count;
  const bool has_all = reader.has_statistics_of_prompts();
  const bool means_fit = !has_means(shard.rows) || std::ranges::all_of(shard.points, [](const Layout::Point& each) {
    return !each.stored || each.point.dtype == Dtype::f32;
  });
  if (!fits || !has_all || !means_fit) {
    refuse(path,
           !fits ? text("says it has ", count, " prompts from ", shard.first_prompt, " on of ", shard.whole_prompts)
           : !has_all ? text("has no statistics of each prompt")
                      : text("has means that are not float32"),
           "the file is damaged, or layerprobe did not write it; make it again");
  }
  return shard;
}

/// Throws, naming the first difference, unless `other` may stand in one file with `first`.
void expect_alike(const ShardFile& first, const ShardFile& other) {
  const auto same = [&](const std::string& of, const std::string& here, const std::string& there) {
    if (here == there) return;
    refuse(other.path,
           text("is of another run than ", first.path.string(), ": ", of, " is ", here, " where that has ", there),
           "merge shards of one model and input that were run with the same options on the same kind of device");
  };
  std::vector<std::string> names(kIdentity.begin(), kIdentity.end());
  names.insert(names.end(), {kShardWholePrompts, kShardWholeInput});
  const auto value_of = [](const ShardFile& shard, const std::string& name) {
    const auto found = shard.attributes.find(name);
    return found == shard.attributes.end() ? std::string("not there") : store::shown(found->second);
  };
  for (const std::string& name : names) {
    const auto a = first.attributes.find(name), b = other.attributes.find(name);
    if (a != first.attributes.end() && b != other.attributes.end() && a->second == b->second) continue;
    same(name, value_of(other, name), value_of(first, name));
  }
  for (std::size_t i = 0; i < std::max(first.points.size(), other.points.size()); ++i) {
    const auto shown_of = [&](const ShardFile& shard) {
      return i < shard.points.size() ? store::shown(shard.points[i]) : std::string("no more");
    };
    same(text("captured point ", i), shown_of(other), shown_of(first));
  }
  same("the number of ranked tokens (top k)", text(other.top_k), text(first.top_k));
  same("the number of experts", text(other.num_experts), text(first.num_experts));
  const auto kept = [](const ShardFile& shard) { return has_means(shard.rows) ? "the mean over them" : "themselves"; };
  same("what is kept of tokens", kept(other), kept(first));
  const auto ids = [](const ShardFile& shard) { return shard.prompts.input_ids.empty() ? "hidden states" : "tokens"; };
  same("its input", ids(other), ids(first));
}

/// Sorts them as their prompts are. Throws unless each prompt is in one of them.
void expect_tiling(std::vector<ShardFile>& shards) {
  std::ranges::stable_sort(shards, {}, &ShardFile::first_prompt);
  const std::int64_t whole = shards.front().whole_prompts;
  const auto expect_no_gap = [&](std::int64_t next, std::int64_t begin, const ShardFile& beside) {
    if (next == begin) return;
    std::string fix = "name the file of the shard that has them";
    for (Shard other{.index = 0, .count = beside.shard.count}; other.index < other.count; ++other.index) {
      if (other.begin(whole) == next) fix = text("run --shard ", text_of(other), " and name its file too");
    }
    refuse(beside.path,
           text(begin - next == 1 ? text("prompt ", next, " of ", whole, " is")
                                  : text("prompts ", next, " to ", begin - 1, " of ", whole, " are"),
                " in no shard that was named"),
           fix);
  };
  std::int64_t next = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const ShardFile& shard = shards[i];
    if (shard.first_prompt < next) {
      refuse(shard.path,
             text("holds prompt ", shard.first_prompt, " of ", whole, ", which ", shards[i - 1].path.string(),
                  " holds too"),
             "name each shard once, all of one --shard count");
    }
    expect_no_gap(next, shard.first_prompt, shards[i == 0 ? 0 : i - 1]);
    next = shard.end_prompt();
  }
  expect_no_gap(next, whole, shards.back());
}

/// Different values, one after the other.
Attribute joined(const std::vector<ShardFile>& shards, const std::string& name) {
  std::vector<std::string> values;
  const Attribute* first = nullptr;
  for (const ShardFile& shard : shards) {
    const auto found = shard.attributes.find(name);
    if (found == shard.attributes.end()) continue;
    if (first == nullptr) first = &found->second;
    const auto* string = std::get_if<std::string>(&found->second);
    const std::string value = string != nullptr ? *string : store::shown(found->second);
    if (std::ranges::find(values, value) == values.end()) values.push_back(value);
    if (values.size() > 1000) break;
  }
  if (values.size() == 1) return *first;
  if (name == "start_time") return *std::ranges::min_element(values);
  std::string all = join(values, "; ");
  if (all.size() > kMaxJoined) all = all.substr(0, kMaxJoined) + " ...";
  return all;
}

Layout layout_of(const std::vector<ShardFile>& shards, const std::string& command_line) {
  const ShardFile& first = shards.front();
  Layout layout;
  layout.points = first.points;
  layout.top_k = first.top_k;
  layout.num_experts = first.num_experts;
  layout.prompts.cu_seqlens = {0};
  layout.rows.cu_rows = {0};
  const bool has_texts = std::ranges::any_of(shards, [](const ShardFile& each) { return !each.prompts.texts.empty(); });
  for (const ShardFile& shard : shards) {
    const std::int64_t tokens = layout.prompts.num_tokens(), rows = layout.rows.num_rows();
    for (std::size_t p = 1; p < shard.prompts.cu_seqlens.size(); ++p) {
      layout.prompts.cu_seqlens.push_back(tokens + shard.prompts.cu_seqlens[p]);
      layout.rows.cu_rows.push_back(rows + shard.rows.cu_rows[p]);
    }
    const auto append = [](auto& all, const auto& part) { all.insert(all.end(), part.begin(), part.end()); };
    append(layout.prompts.input_ids, shard.prompts.input_ids);
    append(layout.rows.position, shard.rows.position);
    append(layout.prompts.texts, shard.prompts.texts);
    if (has_texts) layout.prompts.texts.resize(layout.prompts.cu_seqlens.size() - 1);
  }
  for (const char* name : kIdentity) layout.identity.insert(*first.attributes.find(name));
  std::set<std::string> names;
  for (const ShardFile& shard : shards) {
    for (const auto& [name, value] : shard.attributes) names.insert(name);
  }
  for (const std::string& name : names) {
    if (layout.identity.contains(name) || kOfShard.contains(name) || kAtEnd.contains(name)) continue;
    if (name != "format_version") layout.information[name] = joined(shards, name);
  }
  layout.information["merged_shards"] = static_cast<std::int64_t>(shards.size());
  layout.information["merge_command_line"] = command_line;
  return layout;
}

Attributes end_information(const std::vector<ShardFile>& shards) {
  Attributes out;
  for (const ShardFile& shard : shards) {
    for (const std::string& name : kAtEnd) {
      const auto found = shard.attributes.find(name);
      if (found == shard.attributes.end()) continue;
      const auto [at, is_new] = out.insert(*found);
      if (is_new || at->second.index() != found->second.index()) continue;
      if (auto* seconds = std::get_if<double>(&at->second)) {
        *seconds += std::get<double>(found->second);
      } else {
        at->second = std::max(at->second, found->second);
      }
    }
  }
  return out;
}

/// The copying, once all is checked.
class Merging {
 public:
  Merging(fs::path output, const Layout& layout, store::Writer& writer, const MergeWatch& watch)
      : output_(std::move(output)), layout_(layout), writer_(writer), watch_(watch), top_k_texts_(top_k_size(layout)) {}

  void run(const std::vector<ShardFile>& shards) {
    for (const ShardFile& shard : shards) copy(shard);
    const bool has_texts = std::ranges::any_of(top_k_texts_, [](const std::string& each) { return !each.empty(); });
    if (has_texts) writer_.write_top_k_texts(top_k_texts_);
  }

 private:
  static std::size_t top_k_size(const Layout& layout) {
    return static_cast<std::size_t>(layout.rows.num_rows() * layout.top_k);
  }

  void copy(const ShardFile& shard) {
    const Reader reader(shard.path);
    if (reader.rows().cu_rows != shard.rows.cu_rows || reader.prompts().cu_seqlens != shard.prompts.cu_seqlens ||
        reader.attributes() != shard.attributes) {
      refuse(shard.path, "was changed while it was merged", "let nothing write it, and merge again");
    }
    const std::int64_t first_row = layout_.rows.cu_rows[static_cast<std::size_t>(shard.first_prompt)];
    copy_top_k(reader, first_row);
    for (std::size_t point = 0; point < layout_.points.size(); ++point) {
      if (is_complete(point, shard)) continue;
      if (layout_.points[point].stored) copy_rows(reader, point, first_row);
      const std::vector<Statistics> statistics = reader.statistics_of_prompts(point);
      for (std::size_t prompt = 0; prompt < statistics.size(); ++prompt) {
        const std::int64_t at = shard.first_prompt + static_cast<std::int64_t>(prompt);
        writer_.write_statistics(point, at, statistics[prompt]);
        writer_.mark_complete(point, at);
      }
      commit_if_due();
    }
  }

  bool is_complete(std::size_t point, const ShardFile& shard) const {
    for (std::int64_t prompt = shard.first_prompt; prompt < shard.end_prompt(); ++prompt) {
      if (!writer_.is_complete(point, prompt)) return false;
    }
    return true;
  }

  void copy_rows(const Reader& reader, std::size_t point, std::int64_t first_row) {
    const ProbePoint& described = layout_.points[point].point;
    const std::uint64_t row_bytes = static_cast<std::uint64_t>(described.width) * size_of(described.dtype);
    const auto at_once = static_cast<std::int64_t>(std::max<std::uint64_t>(kCopiedBytes / row_bytes, 1));
    const std::int64_t num_rows = reader.rows().num_rows();
    for (std::int64_t row = 0; row < num_rows; row += at_once) {
      stop_if_asked();
      const std::int64_t count = std::min(at_once, num_rows - row);
      buffer_.resize(static_cast<std::size_t>(count) * row_bytes);
      reader.read_rows(point, row, count, buffer_);
      writer_.write_rows(point, first_row + row, buffer_);
      copied_bytes_ += buffer_.size();
      const double all = static_cast<double>(std::max<std::uint64_t>(writer_.capture_bytes(), 1));
      watch_.step(static_cast<double>(writer_.resumed_bytes() + copied_bytes_) / all);
    }
  }

  void copy_top_k(const Reader& reader, std::int64_t first_row) {
    const Reader::TopK top_k = reader.top_k();
    const auto k = static_cast<std::size_t>(top_k.k);
    for (std::size_t row = 0; k > 0 && row < top_k.ids.size() / k; ++row) {
      const std::int64_t at = first_row + static_cast<std::int64_t>(row);
      writer_.write_top_k(at, std::span(top_k.ids).subspan(row * k, k), std::span(top_k.logits).subspan(row * k, k));
    }
    std::ranges::copy(top_k.texts, top_k_texts_.begin() + first_row * top_k.k);
  }

  void commit_if_due() {
    if (std::chrono::duration<double>(Clock::now() - last_commit_).count() < kCommitSeconds) return;
    writer_.commit();
    last_commit_ = Clock::now();
  }

  void stop_if_asked() {
    if (!watch_.should_stop()) return;
    writer_.commit();
    throw Error({.kind = ErrorKind::interrupted,
                 .where = output_.string() + std::string(store::kPartialSuffix),
                 .what = text("stopped as asked; ", bytes_text(writer_.complete_bytes()), " of ",
                              bytes_text(writer_.capture_bytes()), " of captures are copied"),
                 .fix = "give the same command with --resume to go on from there"});
  }

  const fs::path output_;
  const Layout& layout_;
  store::Writer& writer_;
  const MergeWatch& watch_;
  std::vector<std::string> top_k_texts_;
  std::vector<std::byte> buffer_;
  std::uint64_t copied_bytes_ = 0;
  Clock::time_point last_commit_ = Clock::now();
};

/// Opens OUT.h5; what the writer says of --output is said of that.
store::Writer make_writer(const MergeOptions& options, const Layout& layout) {
  try {
    return {options.output, layout, options.if_exists};
  } catch (const Error& error) {
    Error::Parts parts = error.parts();
    parts.fix = replaced(parts.fix, "--output", "OUT.h5");
    throw Error(parts);
  }
}

}  // namespace

MergeReport merge(const MergeOptions& options, const MergeWatch& watch) {
  const Clock::time_point start = Clock::now();
  expect(!options.shards.empty(), "a merge has shards");
  std::vector<ShardFile> shards;
  for (const fs::path& path : options.shards) {
    std::error_code missing;
    if (fs::equivalent(path, options.output, missing)) {
      refuse(path, "is a shard and the file to be made from it", "choose another OUT.h5");
    }
    shards.push_back(open_shard(path));
  }
  for (const ShardFile& shard : shards) {
    for (const char* name : kIdentity) attribute<std::string>(shard, name);
    expect_alike(shards.front(), shard);
  }
  expect_tiling(shards);
  const Layout layout = layout_of(shards, options.command_line);
  store::Writer writer = make_writer(options, layout);
  MergeReport report{.output = options.output.string(),
                     .num_shards = std::ssize(shards),
                     .num_prompts = layout.prompts.num_prompts(),
                     .num_tokens = layout.prompts.num_tokens(),
                     .num_points = std::ssize(layout.points),
                     .captured_bytes = writer.capture_bytes(),
                     .resumed_bytes = writer.resumed_bytes(),
                     .was_finished = writer.is_finished()};
  if (!report.was_finished) {
    Merging(options.output, layout, writer, watch).run(shards);
    writer.finish(end_information(shards));
  }
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

}  // namespace layerprobe::runtime
