#include "compare/align.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::compare {
namespace {

Error other_input(const store::Reader& candidate, std::string what) {
  return Error({.kind = ErrorKind::input,
                .where = candidate.path().string(),
                .what = std::move(what),
                .fix = "compare runs of the same prompts in the same order, by the same tokenizer"});
}

/// The token ids of a prompt; none where the run was fed hidden states.
std::span<const std::int32_t> ids_of(const Prompts& prompts, std::int64_t prompt) {
  if (prompts.input_ids.empty()) return {};
  return std::span(prompts.input_ids)
      .subspan(static_cast<std::size_t>(prompts.cu_seqlens[static_cast<std::size_t>(prompt)]),
               static_cast<std::size_t>(prompts.length(prompt)));
}

void check_same_prompt(const store::Reader& reference, const store::Reader& candidate, std::int64_t prompt) {
  const std::span<const std::int32_t> r = ids_of(reference.prompts(), prompt);
  const std::span<const std::int32_t> c = ids_of(candidate.prompts(), prompt);
  const std::int64_t r_length = reference.prompts().length(prompt);
  const std::int64_t c_length = candidate.prompts().length(prompt);
  if (!r.empty() && !c.empty()) {
    const auto [at, there] = std::mismatch(r.begin(), r.end(), c.begin(), c.end());
    if (at != r.end() && there != c.end()) {
      throw other_input(candidate, text("prompt ", prompt, " has token id ", *there, " at position ", at - r.begin(),
                                        " where the reference has ", *at));
    }
  }
  if (r_length != c_length) {
    throw other_input(candidate, text("prompt ", prompt, " has ", c_length, " tokens where the reference has ",
                                      r_length, "; they are the same up to position ", std::min(r_length, c_length)));
  }
  if (r.empty() != c.empty() && r_length != 0) {
    throw other_input(candidate, text("prompt ", prompt, (c.empty() ? " is hidden states" : " is token ids"),
                                      " where the reference's is ", (c.empty() ? "token ids" : "hidden states")));
  }
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

Alignment::Alignment(const store::Reader& reference, const store::Reader& candidate)
    : reference_(reference), candidate_(candidate), first_run_{0} {
  const std::int64_t shared = std::min(reference.prompts().num_prompts(), candidate.prompts().num_prompts());
  for (std::int64_t prompt = 0; prompt < shared; ++prompt) check_same_prompt(reference, candidate, prompt);
  const CapturedRows& r = reference.rows();
  const CapturedRows& c = candidate.rows();
  for (std::int64_t prompt = 0; prompt < shared; ++prompt) {
    const std::size_t from = runs_.size();
    const std::vector<std::int64_t> r_rows = rows_by_position(r, prompt);
    const std::vector<std::int64_t> c_rows = rows_by_position(c, prompt);
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
  for (std::int64_t prompt = 0; prompt < num_prompts(); ++prompt) {
    const auto p = static_cast<std::size_t>(prompt);
    if (first_run_[p] == first_run_[p + 1]) continue;
    if (!reference_.is_complete(reference_point, prompt) || !candidate_.is_complete(candidate_point, prompt)) {
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
