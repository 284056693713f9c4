#include "compare/align.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::compare {
namespace {

Error other_input(const store::Reader& candidate, std::string what) {
  return Error({.kind = ErrorKind::input,
                .where = candidate.path().string(),
                .what = std::move(what),
                .fix = "compare runs of the same prompts, by the same tokenizer"});
}

/// The token ids of a prompt; none where the run was fed hidden states.
std::span<const std::int32_t> ids_of(const Prompts& prompts, std::int64_t prompt) {
  if (prompts.input_ids.empty()) return {};
  return std::span(prompts.input_ids)
      .subspan(static_cast<std::size_t>(prompts.cu_seqlens[static_cast<std::size_t>(prompt)]),
               static_cast<std::size_t>(prompts.length(prompt)));
}

/// What keeps two prompts from being the same; nothing when they are.
std::optional<std::string> difference_of_prompts(const store::Reader& reference, std::int64_t reference_prompt,
                                                 const store::Reader& candidate, std::int64_t prompt) {
  const std::span<const std::int32_t> r = ids_of(reference.prompts(), reference_prompt);
  const std::span<const std::int32_t> c = ids_of(candidate.prompts(), prompt);
  const std::int64_t r_length = reference.prompts().length(reference_prompt);
  const std::int64_t c_length = candidate.prompts().length(prompt);
  if (!r.empty() && !c.empty()) {
    if (c.size() == r.size() + 1 && std::equal(r.begin(), r.end(), c.begin() + 1)) {
      return text("prompt ", prompt, " is the reference's behind one more token, id ", c.front(),
                  ": the candidate put a first token (BOS) in front");
    }
    if (r.size() == c.size() + 1 && std::equal(c.begin(), c.end(), r.begin() + 1)) {
      return text("prompt ", prompt, " lacks the reference's first token (BOS), id ", r.front());
    }
    const auto [at, there] = std::mismatch(r.begin(), r.end(), c.begin(), c.end());
    if (at != r.end() && there != c.end()) {
      return text("prompt ", prompt, " has token id ", *there, " at position ", at - r.begin(),
                  " where the reference has ", *at);
    }
  }
  if (r_length != c_length) {
    return text("prompt ", prompt, " has ", c_length, " tokens where the reference has ", r_length,
                "; they are the same up to position ", std::min(r_length, c_length));
  }
  if (r.empty() != c.empty() && r_length != 0) {
    return text("prompt ", prompt, (c.empty() ? " is hidden states" : " is token ids"), " where the reference's is ",
                (c.empty() ? "token ids" : "hidden states"));
  }
  return std::nullopt;
}

/// For each of the reference's prompts the first of the candidate's with the same tokens that no earlier one took; -1
/// where there is none.
std::vector<std::int64_t> paired_by_tokens(const store::Reader& reference, const store::Reader& candidate) {
  const auto bytes_of = [](std::span<const std::int32_t> ids) {
    return std::string_view(reinterpret_cast<const char*>(ids.data()), ids.size_bytes());
  };
  std::unordered_map<std::string_view, std::vector<std::int64_t>> places;  // the last one first
  for (std::int64_t prompt = candidate.prompts().num_prompts() - 1; prompt >= 0; --prompt) {
    places[bytes_of(ids_of(candidate.prompts(), prompt))].push_back(prompt);
  }
  std::vector<std::int64_t> paired;
  for (std::int64_t prompt = 0; prompt < reference.prompts().num_prompts(); ++prompt) {
    const auto found = places.find(bytes_of(ids_of(reference.prompts(), prompt)));
    if (found == places.end() || found->second.empty()) {
      paired.push_back(-1);
    } else {
      paired.push_back(found->second.back());
      found->second.pop_back();
    }
  }
  return paired;
}

/// The prompt's rows by rising token position.
std::vector<std::int64_t> rows_by_position(const CapturedRows& rows, std::int64_t prompt) {
  const std::int64_t first = rows.cu_rows[static_cast<std::size_t>(prompt)];
  const std::int64_t end = rows.cu_rows[static_cast<std::size_t>(prompt) + 1];
  std::vector<std::int64_t> order(static_cast<std::size_t>(end - first));
  std::iota(order.begin(), order.end(), first);
  const auto position = [&](std::int64_t row) { return rows.position[static_cast<std::size_t>(row)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return position(a) < position(b); });
  return order;
}

/// Adds a run, or makes the last one longer where it goes on; never one that ends before `from`.
void append(std::vector<RowRun>& runs, std::size_t from, const RowRun& next) {
  if (runs.size() > from) {
    RowRun& last = runs.back();
    if (last.reference_row + last.count == next.reference_row &&
        last.candidate_row + last.count == next.candidate_row) {
      last.count += next.count;
      return;
    }
  }
  runs.push_back(next);
}

}  // namespace

std::string canonical_name(std::string_view name) {
  constexpr std::string_view kLanguageModel = "model.language_model.";
  if (name.starts_with(kLanguageModel)) return "model." + std::string(name.substr(kLanguageModel.size()));
  return std::string(name);
}

Token token_of(const CapturedRows& rows, std::int64_t row) {
  const auto after = std::upper_bound(rows.cu_rows.begin(), rows.cu_rows.end(), row);
  return {.prompt = after - rows.cu_rows.begin() - 1, .token = rows.position[static_cast<std::size_t>(row)]};
}

/// By index, else by tokens.
void Alignment::pair_prompts() {
  const std::int64_t in_reference = reference_.prompts().num_prompts();
  const std::int64_t in_candidate = candidate_.prompts().num_prompts();
  const std::int64_t fewer = std::min(in_reference, in_candidate);
  std::optional<std::string> why;
  for (std::int64_t prompt = 0; prompt < fewer && !why; ++prompt) {
    why = difference_of_prompts(reference_, prompt, candidate_, prompt);
  }
  candidate_prompt_.assign(static_cast<std::size_t>(in_reference), -1);
  num_prompts_ = fewer;
  if (!why) {
    std::iota(candidate_prompt_.begin(), candidate_prompt_.begin() + fewer, std::int64_t{0});
    return;
  }
  if (reference_.prompts().input_ids.empty() || candidate_.prompts().input_ids.empty()) {
    throw other_input(candidate_, *why);
  }
  candidate_prompt_ = paired_by_tokens(reference_, candidate_);
  const auto num_paired = std::ranges::count_if(candidate_prompt_, [](std::int64_t prompt) { return prompt >= 0; });
  if (num_paired < fewer) throw other_input(candidate_, *why);
  std::vector<std::int64_t> in_order;
  for (const std::int64_t prompt : candidate_prompt_) {
    if (prompt >= 0) in_order.push_back(prompt);
  }
  prompt_order_ = std::ranges::is_sorted(in_order) ? "a part of the other file's prompts" : "another order of prompts";
}

Alignment::Alignment(const store::Reader& reference, const store::Reader& candidate)
    : reference_(reference), candidate_(candidate), first_run_{0} {
  pair_prompts();
  const CapturedRows& r = reference.rows();
  const CapturedRows& c = candidate.rows();
  for (std::int64_t prompt = 0; prompt < reference.prompts().num_prompts(); ++prompt) {
    const std::int64_t candidate_prompt = candidate_prompt_[static_cast<std::size_t>(prompt)];
    if (candidate_prompt < 0) {
      first_run_.push_back(runs_.size());
      continue;
    }
    const std::size_t from = runs_.size();
    const std::vector<std::int64_t> r_rows = rows_by_position(r, prompt);
    const std::vector<std::int64_t> c_rows = rows_by_position(c, candidate_prompt);
    for (std::size_t i = 0, j = 0; i < r_rows.size() && j < c_rows.size();) {
      const std::int32_t r_position = r.position[static_cast<std::size_t>(r_rows[i])];
      const std::int32_t c_position = c.position[static_cast<std::size_t>(c_rows[j])];
      if (r_position == c_position) {
        append(runs_, from, {.reference_row = r_rows[i], .candidate_row = c_rows[j], .count = 1});
        ++num_rows_;
      }
      i += r_position <= c_position;
      j += c_position <= r_position;
    }
    first_run_.push_back(runs_.size());
  }
  if (num_rows_ == 0) {
    throw Error({.kind = ErrorKind::input,
                 .where = candidate.path().string(),
                 .what = text("none of its ", c.num_rows(), " rows is a token that is among the ", r.num_rows(),
                              " rows of the reference"),
                 .fix = "compare runs with --tokens that overlap"});
  }
}

Alignment::Shared Alignment::rows_of(std::size_t reference_point, std::size_t candidate_point) const {
  Shared shared;
  for (std::int64_t prompt = 0; prompt < reference_.prompts().num_prompts(); ++prompt) {
    const auto p = static_cast<std::size_t>(prompt);
    if (first_run_[p] == first_run_[p + 1]) continue;
    if (!reference_.is_complete(reference_point, prompt) ||
        !candidate_.is_complete(candidate_point, candidate_prompt_[p])) {
      ++shared.num_incomplete_prompts;
      continue;
    }
    ++shared.num_prompts;
    for (std::size_t i = first_run_[p]; i < first_run_[p + 1]; ++i) {
      append(shared.runs, 0, runs_[i]);
      shared.num_rows += runs_[i].count;
    }
  }
  return shared;
}

}  // namespace layerprobe::compare
