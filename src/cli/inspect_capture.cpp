#include <algorithm>
#include <iostream>
#include <numeric>
#include <optional>
#include <string>
#include <variant>

#include "base/bytes.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/inspect.h"
#include "cli/table.h"
#include "store/reader.h"

namespace layerprobe::cli {
namespace {

constexpr std::int64_t kShownRows = 20;   // of /topk
constexpr std::int64_t kShownTokens = 5;  // of each

std::int64_t num_complete_prompts(const store::Reader& reader, std::size_t point) {
  std::int64_t count = 0;
  for (std::int64_t prompt = 0; prompt < reader.prompts().num_prompts(); ++prompt) {
    count += reader.is_complete(point, prompt);
  }
  return count;
}

struct Token {
  std::int64_t prompt;
  std::int64_t token;  // -1: the mean
};

/// Which token a row number of a point's statistics is: a row of the captures, or, of a point that is not stored, a
/// token of the input. Nothing for -1.
std::optional<Token> token_of(const store::Reader& reader, std::size_t point, std::int64_t row) {
  const bool is_stored = reader.points()[point].stored;
  const std::vector<std::int64_t>& cu = is_stored ? reader.rows().cu_rows : reader.prompts().cu_seqlens;
  if (row < 0 || row >= cu.back()) return std::nullopt;
  const auto prompt = std::upper_bound(cu.begin(), cu.end(), row) - cu.begin() - 1;
  return Token{.prompt = prompt,
               .token = is_stored ? reader.rows().position[static_cast<std::size_t>(row)]
                                  : row - cu[static_cast<std::size_t>(prompt)]};
}

std::string token_text(const std::optional<Token>& token) {
  if (!token) return "-";
  return text("p", token->prompt, token->token < 0 ? std::string(" mean") : text(" t", token->token));
}

std::string attribute_text(const store::Attribute& attribute) {
  if (const auto* integer = std::get_if<std::int64_t>(&attribute)) return text(*integer);
  if (const auto* number = std::get_if<double>(&attribute)) return exact_text(*number);
  return printable(std::get<std::string>(attribute));
}

/// "all tokens", "the last token of each prompt", ...
std::string kept_text(const store::Reader& reader) {
  const CapturedRows& rows = reader.rows();
  const Prompts& prompts = reader.prompts();
  if (std::all_of(rows.position.begin(), rows.position.end(), [](std::int32_t each) { return each == -1; })) {
    return "the mean over each prompt's tokens";
  }
  if (rows.num_rows() == prompts.num_tokens()) return "all tokens";
  bool are_last = rows.num_rows() == prompts.num_prompts();
  for (std::int64_t p = 0; are_last && p < prompts.num_prompts(); ++p) {
    are_last = rows.position[static_cast<std::size_t>(p)] == prompts.length(p) - 1;
  }
  return are_last ? "the last token of each prompt" : "some of the tokens";
}

void print_header(const store::Reader& reader) {
  const Prompts& prompts = reader.prompts();
  std::cout << printable(reader.path().string()) << ": captured run, "
            << (reader.is_finished() ? "finished" : "partial") << ", "
            << bytes_text(std::filesystem::file_size(reader.path())) << "\n";
  if (!reader.is_finished()) {
    const double share = reader.capture_bytes() == 0 ? 0.0
                                                     : static_cast<double>(reader.complete_bytes()) /
                                                           static_cast<double>(reader.capture_bytes());
    std::cout << "complete: " << bytes_text(reader.complete_bytes()) << " of " << bytes_text(reader.capture_bytes())
              << " (" << fixed_text(100 * share, 1) << "%); --resume goes on from there\n";
  }
  std::int64_t shortest = prompts.num_prompts() == 0 ? 0 : prompts.length(0), longest = shortest;
  for (std::int64_t p = 0; p < prompts.num_prompts(); ++p) {
    shortest = std::min(shortest, prompts.length(p));
    longest = std::max(longest, prompts.length(p));
  }
  std::cout << "prompts: " << prompts.num_prompts() << " of " << shortest << " to " << longest << " tokens, "
            << prompts.num_tokens() << " in all, "
            << (!prompts.texts.empty()      ? "with their text"
                : prompts.input_ids.empty() ? "fed as hidden states"
                                            : "as token ids")
            << "\n";
  std::cout << "rows: " << reader.rows().num_rows() << " of each point: " << kept_text(reader) << "\n\n";
  Table attributes(
      {{.name = "attribute", .align = Table::Align::left}, {.name = "value", .align = Table::Align::left}});
  for (const auto& [name, value] : reader.attributes()) attributes.add_row({name, attribute_text(value)});
  std::cout << attributes << "\n";
}

void print_points(const store::Reader& reader) {
  std::vector<Table::Column> columns = {{.name = "point", .align = Table::Align::left},
                                        {.name = "dtype", .align = Table::Align::left}};
  for (const char* name : {"width", "bytes", "prompts", "mean", "std", "min", "max", "abs_max"}) {
    columns.push_back({.name = name});
  }
  columns.push_back({.name = "at", .align = Table::Align::left});
  for (const char* name : {"NaN", "Inf"}) columns.push_back({.name = name});
  Table table(std::move(columns));
  const std::int64_t num_prompts = reader.prompts().num_prompts();
  for (std::size_t i = 0; i < reader.points().size(); ++i) {
    const store::Layout::Point& each = reader.points()[i];
    const Statistics& s = reader.statistics(i);
    const auto bytes = static_cast<std::uint64_t>(reader.rows().num_rows() * each.point.width) *
                       size_of(each.point.dtype);  // of a point that is stored: in the file, so no overflow
    const std::int64_t complete = num_complete_prompts(reader, i);
    std::vector<std::string> cells = {each.point.name, std::string(name_of(each.point.dtype)), text(each.point.width),
                                      each.stored ? bytes_text(bytes) : "-",
                                      complete == num_prompts ? text(num_prompts) : text(complete, "/", num_prompts)};
    if (s.finite_count() > 0) {
      for (const double value : {s.mean(), s.std(), s.min, s.max, s.abs_max}) cells.push_back(number_text(value));
    } else {
      cells.insert(cells.end(), 5, "-");
    }
    const std::optional<Token> at = token_of(reader, i, s.abs_max_row);
    cells.push_back(at ? text(token_text(at), " c", s.abs_max_column) : "-");
    cells.push_back(text(s.nan_count));
    cells.push_back(text(s.inf_count));
    table.add_row(std::move(cells));
  }
  std::cout << table;
  for (std::size_t i = 0; i < reader.points().size(); ++i) {
    const Statistics& s = reader.statistics(i);
    if (s.nan_count + s.inf_count == 0) continue;
    std::cout << "\nfirst NaN or infinity: " << printable(reader.points()[i].point.name) << ", "
              << token_text(token_of(reader, i, s.first_non_finite_row)) << "\n";
    break;
  }
}

/// How evenly each router deals its tokens.
std::optional<Table> experts_table(const store::Reader& reader) {
  Table table({{.name = "chosen by", .align = Table::Align::left},
               {.name = "experts"},
               {.name = "choices"},
               {.name = "never chosen"},
               {.name = "fewest"},
               {.name = "median"},
               {.name = "most"},
               {.name = "most chosen"}});
  bool is_empty = true;
  for (std::size_t i = 0; i < reader.points().size(); ++i) {
    const std::vector<std::int64_t> counts = reader.expert_counts(i);
    if (counts.empty()) continue;
    is_empty = false;
    const auto most = std::max_element(counts.begin(), counts.end());
    std::vector<std::int64_t> sorted = counts;
    std::sort(sorted.begin(), sorted.end());
    table.add_row({reader.points()[i].point.name, text(counts.size()),
                   text(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})),
                   text(std::count(counts.begin(), counts.end(), 0)), text(sorted.front()),
                   text(sorted[sorted.size() / 2]), text(*most), text("expert ", most - counts.begin())});
  }
  return is_empty ? std::nullopt : std::optional(table);
}

void print_top_k(const store::Reader& reader, const store::Reader::TopK& top_k) {
  if (top_k.k == 0) return;
  Table table({{.name = "token", .align = Table::Align::left},
               {.name = "next tokens, largest logit first", .align = Table::Align::left}});
  const std::int64_t num_rows = reader.rows().num_rows();
  for (std::int64_t row = 0; row < std::min(num_rows, kShownRows); ++row) {
    const auto after = std::upper_bound(reader.rows().cu_rows.begin(), reader.rows().cu_rows.end(), row);
    std::string shown;
    for (std::int64_t k = 0; k < std::min(top_k.k, kShownTokens); ++k) {
      const auto i = static_cast<std::size_t>(row * top_k.k + k);
      shown += text(k == 0 ? "" : "  ", '"', top_k.texts[i], "\" ", number_text(double{top_k.logits[i]}));
    }
    table.add_row({token_text(Token{.prompt = after - reader.rows().cu_rows.begin() - 1,
                                    .token = reader.rows().position[static_cast<std::size_t>(row)]}),
                   shown});
  }
  std::cout << "\n" << table;
  if (num_rows > kShownRows) std::cout << "(" << num_rows - kShownRows << " more rows)\n";
}

Json json_of(const std::optional<Token>& token) {
  if (!token) return nullptr;
  Json out;
  out.set("prompt", token->prompt);
  out.set("token", token->token);
  return out;
}

Json json_of(const store::Reader& reader, std::size_t point) {
  const store::Layout::Point& each = reader.points()[point];
  const Statistics& s = reader.statistics(point);
  Json statistics;
  const bool is_known = s.finite_count() > 0;
  statistics.set("count", s.count);
  for (const auto& [name, value] :
       {std::pair("mean", s.mean()), {"std", s.std()}, {"min", s.min}, {"max", s.max}, {"abs_max", s.abs_max}}) {
    statistics.set(name, is_known ? Json(value) : Json());
  }
  Json at = json_of(token_of(reader, point, s.abs_max_row));
  if (!at.is_null()) at.set("channel", s.abs_max_column);
  statistics.set("abs_max_at", std::move(at));
  statistics.set("nan_count", s.nan_count);
  statistics.set("inf_count", s.inf_count);
  statistics.set("first_non_finite", json_of(token_of(reader, point, s.first_non_finite_row)));
  Json out;
  out.set("name", each.point.name);
  out.set("dtype", name_of(each.point.dtype));
  out.set("width", each.point.width);
  out.set("semantics", semantics_of(each.point.name));
  out.set("stored", each.stored);
  out.set("num_complete_prompts", num_complete_prompts(reader, point));
  out.set("statistics", std::move(statistics));
  if (const std::vector<std::int64_t> counts = reader.expert_counts(point); !counts.empty()) {
    Json of_experts = Json::Array{};
    for (const std::int64_t count : counts) of_experts.push(count);
    out.set("expert_counts", std::move(of_experts));
  }
  return out;
}

Json json_of(const store::Reader& reader) {
  Json out;
  out.set("path", reader.path().string());
  out.set("is_finished", reader.is_finished());
  out.set("file_bytes", std::uint64_t{std::filesystem::file_size(reader.path())});
  out.set("capture_bytes", reader.capture_bytes());
  out.set("complete_bytes", reader.complete_bytes());
  Json attributes = Json::Object{};
  for (const auto& [name, value] : reader.attributes()) {
    attributes.set(name, std::visit([](const auto& each) { return Json(each); }, value));
  }
  out.set("attributes", std::move(attributes));
  out.set("num_prompts", reader.prompts().num_prompts());
  out.set("num_tokens", reader.prompts().num_tokens());
  out.set("num_rows", reader.rows().num_rows());
  Json points = Json::Array{};
  for (std::size_t i = 0; i < reader.points().size(); ++i) points.push(json_of(reader, i));
  out.set("points", std::move(points));
  out.set("top_k", reader.top_k().k);
  return out;
}

}  // namespace

void inspect_capture(const std::filesystem::path& path, bool json) {
  const store::Reader reader(path);
  if (json) {
    std::cout << json_of(reader).dump(2) << "\n";
    return;
  }
  const store::Reader::TopK top_k = reader.top_k();  // before anything is printed: it may be damaged
  const std::optional<Table> experts = experts_table(reader);
  print_header(reader);
  print_points(reader);
  if (experts) std::cout << "\n" << *experts;
  print_top_k(reader, top_k);
}

}  // namespace layerprobe::cli
