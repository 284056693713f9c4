#include "tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <utility>

#include "base/error.h"
#include "base/handle.h"
#include "base/text.h"
#include "tokenizer/pattern_syntax.h"

namespace layerprobe::tokenizer {
namespace {

constexpr std::size_t kFirstStackBytes = 1 << 20;
constexpr std::size_t kMaxStackBytes = 128 << 20;        // of compiled code; text that needs more is no prose
constexpr std::uint32_t kMaxHeapKibibytes = 128 << 10;   // of PCRE2's interpreter, where code cannot be compiled
constexpr std::uint32_t kMaxBacktracks = 1'000'000'000;  // the steps below end hostile patterns long before
constexpr std::size_t kCodeBytesAStep = 2048;            // the usual patterns are not longer; PCRE2's limit is 64 KiB

using JitStack = Handle<pcre2_jit_stack*, pcre2_jit_stack_free>;

struct Steps {
  std::int64_t left = 0;
  std::int64_t cost = 1;     // of a callout
  std::size_t position = 0;  // at the last one
};

/// The work between two callouts is the pattern's length at most, and the characters that the position moved by.
int count_steps(pcre2_callout_block* block, void* data) {
  Steps& steps = *static_cast<Steps*>(data);
  const std::size_t now = block->current_position;
  steps.left -=
      steps.cost + static_cast<std::int64_t>(now > steps.position ? now - steps.position : steps.position - now);
  steps.position = now;
  return steps.left < 0 ? PCRE2_ERROR_CALLOUT : 0;
}

std::string pcre2_words(int code) {
  std::array<PCRE2_UCHAR, 256> words{};
  pcre2_get_error_message(code, words.data(), words.size());
  return reinterpret_cast<const char*>(words.data());
}

}  // namespace

struct PatternRun::State {
  Steps steps;
  Handle<pcre2_match_data*, pcre2_match_data_free> data{pcre2_match_data_create(1, nullptr)};
  Handle<pcre2_match_context*, pcre2_match_context_free> context{pcre2_match_context_create(nullptr)};
  JitStack stack;  // made when the 32 KiB of the machine's stack are too few
};

PatternRun::PatternRun(std::size_t num_characters) : state_(std::make_unique<State>()) {
  expect(state_->data.get() != nullptr && state_->context.get() != nullptr, "PCRE2 gets a few hundred bytes");
  state_->steps.left = 50'000'000 + 200 * static_cast<std::int64_t>(num_characters);
  pcre2_match_context* context = state_->context.get();
  pcre2_set_match_limit(context, kMaxBacktracks);
  pcre2_set_depth_limit(context, kMaxBacktracks);
  pcre2_set_heap_limit(context, kMaxHeapKibibytes);
  pcre2_set_callout(context, count_steps, &state_->steps);
}
PatternRun::~PatternRun() = default;
PatternRun::PatternRun(PatternRun&&) noexcept = default;

struct Pattern::State {
  std::string where;
  std::vector<std::uint8_t> byte_of;
  Handle<pcre2_code*, pcre2_code_free> code;
  std::int64_t step_cost = 1;
};

Pattern::Pattern(std::string_view oniguruma, std::string where) : state_(std::make_unique<State>()) {
  BytePattern translated = translate_pattern(oniguruma, where);
  state_->where = std::move(where);
  state_->byte_of = std::move(translated.byte_of);
  int error = 0;
  PCRE2_SIZE error_at = 0;
  state_->code = Handle<pcre2_code*, pcre2_code_free>(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.pcre2.data()), translated.pcre2.size(),
                    translated.has_atomic_group ? PCRE2_NO_AUTO_POSSESS : 0, &error, &error_at, nullptr));
  if (state_->code.get() == nullptr) {
    throw Error({.kind = ErrorKind::input,
                 .where = state_->where,
                 .what = text("PCRE2 does not take the pattern: ", pcre2_words(error)),
                 .fix = "give token ids (--input-ids) instead of text"});
  }
  std::size_t code_bytes = 0;
  pcre2_pattern_info(state_->code.get(), PCRE2_INFO_SIZE, &code_bytes);
  state_->step_cost = 1 + static_cast<std::int64_t>(code_bytes / kCodeBytesAStep);
  // Where this fails, PCRE2's interpreter runs the pattern.
  if (!translated.has_atomic_group) pcre2_jit_compile(state_->code.get(), PCRE2_JIT_COMPLETE);
}
Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;

std::string Pattern::kinds_of(std::u32string_view text) const {
  std::string out(text.size(), '\0');
  for (std::size_t i = 0; i < text.size(); ++i) out[i] = static_cast<char>(state_->byte_of[text[i]]);
  return out;
}

void Pattern::find_all(std::string_view kinds, PatternRun& run, std::vector<Match>& matches) const {
  std::size_t from = 0;
  std::size_t end_before = SIZE_MAX;  // where the match before ended
  while (from <= kinds.size()) {
    run.state_->steps.position = from;
    run.state_->steps.cost = state_->step_cost;
    const int result = pcre2_match(state_->code.get(), reinterpret_cast<PCRE2_SPTR>(kinds.data()), kinds.size(), from,
                                   0, run.state_->data.get(), run.state_->context.get());
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && run.state_->stack.get() == nullptr) {
      run.state_->stack = JitStack(pcre2_jit_stack_create(kFirstStackBytes, kMaxStackBytes, nullptr));
      pcre2_jit_stack_assign(run.state_->context.get(), nullptr, run.state_->stack.get());
      if (run.state_->stack.get() != nullptr) continue;
    }
    if (result == PCRE2_ERROR_NOMATCH) return;
    if (result < 0) {
      const char* const problem = result == PCRE2_ERROR_CALLOUT ? "takes too many steps" : "fails";
      const std::string words = result == PCRE2_ERROR_CALLOUT ? "" : ": " + pcre2_words(result);
      throw Error({.kind = ErrorKind::input,
                   .where = state_->where,
                   .what = text("the pattern ", problem, " on a text of ", kinds.size(), " characters", words),
                   .fix = "give token ids (--input-ids) instead of text"});
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(run.state_->data.get());
    if (bounds[0] == bounds[1] && bounds[1] == end_before) {
      ++from;
      continue;
    }
    matches.push_back({.begin = bounds[0], .end = bounds[1]});
    from = end_before = bounds[1];
  }
}

}  // namespace layerprobe::tokenizer
