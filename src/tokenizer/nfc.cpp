#include <algorithm>
#include <cstdint>
#include <iterator>

#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {
namespace {

#include "tokenizer/unicode_compositions.inc"

// Hangul syllables are computed: leading consonant, vowel, trailing consonant or none.
constexpr char32_t kFirstSyllable = 0xAC00, kFirstLeading = 0x1100, kFirstVowel = 0x1161, kBeforeTrailing = 0x11A7;
constexpr char32_t kNumLeading = 19, kNumVowels = 21, kNumTrailing = 28;
constexpr char32_t kNumSyllables = kNumLeading * kNumVowels * kNumTrailing;

struct Composition {
  char32_t first, second, composed;
  std::uint64_t pair() const { return std::uint64_t{first} << 32 | second; }
};

struct Tables {
  std::vector<Composition> by_composed;  // second is 0 where the decomposition is one character
  std::vector<Composition> by_pair;      // those pairs that compose again

  Tables() {
    char32_t composed = 0;
    for (std::size_t i = 0; i < std::size(kDecompositions); i += 3) {
      composed += kDecompositions[i] / 2;
      by_composed.push_back({kDecompositions[i + 1], kDecompositions[i + 2], composed});
      if (kDecompositions[i] % 2 == 1) by_pair.push_back(by_composed.back());
    }
    std::sort(by_pair.begin(), by_pair.end(),
              [](const Composition& a, const Composition& b) { return a.pair() < b.pair(); });
  }
};

const Tables& tables() {
  static const Tables made;
  return made;
}

std::uint32_t combining_class(char32_t code_point) {
  const auto* after = std::upper_bound(std::begin(kCombiningClasses), std::end(kCombiningClasses), code_point,
                                       [](char32_t value, const auto& run) { return value < run[0]; });
  if (after == std::begin(kCombiningClasses)) return 0;
  const auto& run = *std::prev(after);
  return code_point < run[0] + run[1] ? run[2] : 0;
}

void append_decomposed(char32_t code_point, std::u32string& out) {
  if (code_point >= kFirstSyllable && code_point < kFirstSyllable + kNumSyllables) {
    const char32_t index = code_point - kFirstSyllable;
    out.push_back(kFirstLeading + index / (kNumVowels * kNumTrailing));
    out.push_back(kFirstVowel + index / kNumTrailing % kNumVowels);
    if (index % kNumTrailing != 0) out.push_back(kBeforeTrailing + index % kNumTrailing);
    return;
  }
  const std::vector<Composition>& all = tables().by_composed;
  const auto found = std::lower_bound(all.begin(), all.end(), code_point,
                                      [](const Composition& one, char32_t value) { return one.composed < value; });
  if (found == all.end() || found->composed != code_point) {
    out.push_back(code_point);
    return;
  }
  append_decomposed(found->first, out);
  if (found->second != 0) out.push_back(found->second);  // second parts are never decomposable
}

/// What the pair becomes, or 0.
char32_t composed_of(char32_t first, char32_t second) {
  if (first - kFirstLeading < kNumLeading && second - kFirstVowel < kNumVowels) {
    return kFirstSyllable + ((first - kFirstLeading) * kNumVowels + (second - kFirstVowel)) * kNumTrailing;
  }
  if (first - kFirstSyllable < kNumSyllables && (first - kFirstSyllable) % kNumTrailing == 0 &&
      second > kBeforeTrailing && second < kBeforeTrailing + kNumTrailing) {
    return first + (second - kBeforeTrailing);
  }
  const std::uint64_t pair = std::uint64_t{first} << 32 | second;
  const std::vector<Composition>& all = tables().by_pair;
  const auto found = std::lower_bound(all.begin(), all.end(), pair,
                                      [](const Composition& one, std::uint64_t value) { return one.pair() < value; });
  return found != all.end() && found->pair() == pair ? found->composed : 0;
}

/// Sorts each run of characters whose class is not 0 by class; those of one class keep their order.
void put_marks_in_order(std::u32string& text) {
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin;
    while (end < text.size() && combining_class(text[end]) != 0) ++end;
    std::stable_sort(text.begin() + static_cast<std::ptrdiff_t>(begin), text.begin() + static_cast<std::ptrdiff_t>(end),
                     [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    begin = end + 1;
  }
}

}  // namespace

std::u32string nfc(std::u32string_view text) {
  constexpr char32_t kFirstMark = 0x300;  // nothing below it takes part in a composition as a second character
  if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < kFirstMark; })) return std::u32string(text);
  std::u32string decomposed;
  decomposed.reserve(text.size() + text.size() / 4);
  for (const char32_t code_point : text) append_decomposed(code_point, decomposed);
  put_marks_in_order(decomposed);

  std::u32string out;
  out.reserve(decomposed.size());
  std::size_t starter = 0;  // where in `out` the last character of class 0 is
  bool has_starter = false;
  std::uint32_t class_before = 0;  // of the last character that stayed after the starter
  for (const char32_t code_point : decomposed) {
    const std::uint32_t its_class = combining_class(code_point);
    const bool adjacent = has_starter && starter + 1 == out.size();
    if (has_starter && (adjacent || class_before < its_class)) {  // else another mark, or starter, is in between
      if (const char32_t composed = composed_of(out[starter], code_point); composed != 0) {
        out[starter] = composed;
        continue;
      }
    }
    if (its_class == 0) {
      starter = out.size();
      has_starter = true;
    }
    class_before = its_class;
    out.push_back(code_point);
  }
  return out;
}

}  // namespace layerprobe::tokenizer
