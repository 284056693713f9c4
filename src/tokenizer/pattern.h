#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace layerprobe::tokenizer {

/// What running patterns needs beside them, and how much work they may still do. One for each call of encode().
class PatternRun {
 public:
  /// Patterns may take 50 million steps and 200 more for each character, a second or so, where the usual ones take ten
  /// steps a character. A step of a long pattern counts for several.
  explicit PatternRun(std::size_t num_characters);
  ~PatternRun();
  PatternRun(PatternRun&&) noexcept;

 private:
  friend class Pattern;
  struct State;
  std::unique_ptr<State> state_;
};

/// A regular expression of a tokenizer, in Oniguruma's syntax (see pattern_syntax.h), run by PCRE2. Any thread.
class Pattern {
 public:
  struct Match {
    std::size_t begin, end;  // in characters; they may be equal
  };

  /// `where` names the file and the part of it, for errors.
  Pattern(std::string_view oniguruma, std::string where);
  ~Pattern();
  Pattern(Pattern&&) noexcept;

  /// The text as this pattern sees it: a byte for each character. What find_all() takes, whole or a part of it.
  std::string kinds_of(std::u32string_view text) const;

  /// All matches in `kinds`, from left to right, as the `onig` crate's find_iter gives them: they do not overlap, and
  /// an empty one does not follow right after another match.
  /// Throws Error(input) when the pattern takes more steps than `run` allows, or too much memory.
  void find_all(std::string_view kinds, PatternRun& run, std::vector<Match>& matches) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace layerprobe::tokenizer
