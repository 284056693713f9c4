#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "tokenizer/code_point_set.h"

namespace layerprobe::tokenizer {

/// Code points of UTF-8. What is no UTF-8 becomes U+FFFD, one for each maximal part of a character, as Python's
/// decode(errors="replace") and Rust's from_utf8_lossy have it (The Unicode Standard 3.9, table 3-8).
std::u32string decode_utf8(std::string_view bytes);
void append_utf8(char32_t code_point, std::string& out);
std::string encode_utf8(std::u32string_view code_points);

/// The characters of a general category, "Lu", or of a group of them, "L". Nothing for another name. Case, spaces,
/// hyphens and underlines in names mean nothing, as in Oniguruma.
std::optional<CodePointSet> find_property(std::string_view name);

const CodePointSet& white_space();
/// \w within brackets, and \w and \b outside: Oniguruma takes fractions and superscripts of Latin-1 for word characters
/// there.
const CodePointSet& word_characters();
const CodePointSet& bare_word_characters();
/// What an added token with single_word must not stand beside.
const CodePointSet& added_token_word_characters();
/// What the pre-tokenizer Digits splits at: char::is_numeric in Rust.
const CodePointSet& numeric_characters();

/// Normalisation form C. The characters composed and ordered are those of Unicode 9.0, as in `tokenizers`.
/// Source: Unicode Standard Annex 15; The Unicode Standard 3.12 for Hangul.
std::u32string nfc(std::u32string_view text);

}  // namespace layerprobe::tokenizer
