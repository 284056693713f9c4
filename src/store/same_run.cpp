#include "store/same_run.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::store {
namespace {

std::string quoted(const std::string& value) {
  constexpr std::size_t kMaxShown = 200;
  if (value.size() <= kMaxShown) return text("\"", value, "\"");
  return text("\"", value.substr(0, kMaxShown), "...\" (", value.size(), " bytes)");
}

}  // namespace

std::string shown(const Attribute& attribute) {
  if (const auto* integer = std::get_if<std::int64_t>(&attribute)) return text(*integer);
  if (const auto* real = std::get_if<double>(&attribute)) return text(*real);
  return quoted(std::get<std::string>(attribute));
}

std::string shown(const Layout::Point& point) {
  return text(point.point.name, " (", name_of(point.point.dtype), ", ", point.point.width, " wide",
              point.stored ? ")" : ", statistics only)");
}

namespace {

/// Compares what the file has with what this run wants, one thing after the other.
class Comparison {
 public:
  explicit Comparison(const std::filesystem::path& path) : path_(path) {}

  template <typename Value>
  void same(const std::string& of, const Value& found, const Value& wanted) const {
    if (found != wanted) differ(of, text(found), text(wanted));
  }

  [[noreturn]] void differ(const std::string& of, const std::string& found, const std::string& wanted) const {
    throw Error({.kind = ErrorKind::input,
                 .where = path_.string(),
                 .what = text("is of another run: ", of, " is ", found, " there and ", wanted, " in this run"),
                 .fix = "give the first run's options to go on with it, --overwrite to start afresh, or another "
                        "--output"});
  }

 private:
  const std::filesystem::path& path_;
};

void compare_identity(const Comparison& comparison, const Attributes& found, const Attributes& wanted) {
  for (const auto& [name, value] : wanted) {
    const auto at = found.find(name);
    if (at == found.end()) comparison.differ(name, "not given", shown(value));
    if (at->second != value) comparison.differ(name, shown(at->second), shown(value));
  }
}

void compare_points(const Comparison& comparison, const std::vector<Layout::Point>& found,
                    const std::vector<Layout::Point>& wanted) {
  for (std::size_t i = 0; i < std::max(found.size(), wanted.size()); ++i) {
    const std::string there = i < found.size() ? shown(found[i]) : "no more";
    const std::string here = i < wanted.size() ? shown(wanted[i]) : "no more";
    comparison.same(text("captured point ", i), there, here);
  }
}

void compare_prompts(const Comparison& comparison, const Prompts& found, const Prompts& wanted) {
  comparison.same("the number of prompts", found.num_prompts(), wanted.num_prompts());
  for (std::int64_t p = 0; p < wanted.num_prompts(); ++p) {
    comparison.same(text("the number of tokens of prompt ", p), found.length(p), wanted.length(p));
  }
  comparison.same("the number of token ids", found.input_ids.size(), wanted.input_ids.size());
  for (std::size_t p = 0, token = 0; token < wanted.input_ids.size(); ++token) {
    while (std::cmp_greater_equal(token, wanted.cu_seqlens[p + 1])) ++p;
    if (found.input_ids[token] == wanted.input_ids[token]) continue;
    comparison.same(text("token ", static_cast<std::int64_t>(token) - wanted.cu_seqlens[p], " of prompt ", p),
                    found.input_ids[token], wanted.input_ids[token]);
  }
  comparison.same("the number of texts", found.texts.size(), wanted.texts.size());
  for (std::size_t p = 0; p < wanted.texts.size(); ++p) {
    if (found.texts[p] != wanted.texts[p]) {
      comparison.differ(text("the text of prompt ", p), quoted(found.texts[p]), quoted(wanted.texts[p]));
    }
  }
}

void compare_rows(const Comparison& comparison, const CapturedRows& found, const CapturedRows& wanted) {
  for (std::size_t p = 0; p + 1 < wanted.cu_rows.size(); ++p) {
    const std::int64_t first = wanted.cu_rows[p];
    comparison.same(text("the number of captured tokens of prompt ", p), found.cu_rows[p + 1] - first,
                    wanted.cu_rows[p + 1] - first);
    for (auto r = static_cast<std::size_t>(first); std::cmp_less(r, wanted.cu_rows[p + 1]); ++r) {
      if (found.position[r] == wanted.position[r]) continue;
      comparison.same(text("captured token ", static_cast<std::int64_t>(r) - first, " of prompt ", p),
                      found.position[r], wanted.position[r]);
    }
  }
}

}  // namespace

void expect_same_run(const std::filesystem::path& path, const Contents& contents, const Layout& layout) {
  const Comparison comparison(path);
  compare_identity(comparison, contents.attributes, layout.identity);
  compare_points(comparison, contents.points, layout.points);
  compare_prompts(comparison, contents.prompts, layout.prompts);
  compare_rows(comparison, contents.rows, layout.rows);
  comparison.same("the number of ranked tokens (top k)", contents.top_k, layout.top_k);
}

}  // namespace layerprobe::store
