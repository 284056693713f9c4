#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace layerprobe::tokenizer {

/// A pattern over bytes that matches where an Oniguruma pattern matches code points.
///
/// A pattern tells only a few kinds of characters apart (letters, digits, newlines, "s", ...). Each kind gets a byte,
/// and what PCRE2 runs is a pattern of those bytes on a text of those bytes, one for each character. So it is our
/// tables, the same everywhere and those of `tokenizers`, that say what a letter is, not the PCRE2 at hand.
struct BytePattern {
  std::string pcre2;                  // for PCRE2 with 8-bit units, without UTF; its callouts are explained below
  std::vector<std::uint8_t> byte_of;  // [kLastCodePoint + 1]
  /// There is (?>...), or a possessive group. Then PCRE2 must neither compile to machine code nor make repetitions
  /// possessive by itself: 10.42 gives "(?>[ab]+|c?)\B" its "c?" when \B has failed, and finds no "[ab]*(?>c?)(?=a)" in
  /// "a".
  bool has_atomic_group = false;
};

/// Reads Oniguruma's syntax (as the `onig` crate has it by default), the part that tokenizers use: literals, escapes,
/// character sets with nesting and &&, \p{general category}, \s \S \d \D \w \W \h \H, groups, look-around, atomic
/// groups, (?i:...) for ASCII, greedy, lazy and possessive repetition, ^ $ . \A \z \b \B.
///
/// A callout follows whatever can be matched in several ways, so that whoever runs the pattern can count steps: the
/// work between two callouts is bounded by the pattern's length and by how far the position moved.
///
/// Throws Error(input), with `where` and the character at fault, for everything else.
BytePattern translate_pattern(std::string_view oniguruma, const std::string& where);

}  // namespace layerprobe::tokenizer
