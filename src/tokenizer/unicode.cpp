#include "tokenizer/unicode.h"

#include <array>
#include <cstdint>
#include <iterator>

namespace layerprobe::tokenizer {
namespace {

#include "tokenizer/unicode_categories.inc"

// In the order of scripts/make_unicode_tables.py.
constexpr std::array<std::string_view, 30> kCategoryNames = {
    "lu", "ll", "lt", "lm", "lo", "mn", "mc", "me", "nd", "nl", "no", "pc", "pd", "ps", "pe",
    "pi", "pf", "po", "sm", "sc", "sk", "so", "zs", "zl", "zp", "cc", "cf", "co", "cs", "cn"};

template <std::size_t count>
CodePointSet set_of(const char32_t (&ranges)[count][2]) {
  std::vector<CodePointSet::Range> out;
  for (const auto& range : ranges) out.push_back({range[0], range[1]});
  return CodePointSet(std::move(out));
}

CodePointSet letters_marks_digits_and_connectors() {
  CodePointSet set;
  for (const char* name : {"L", "M", "Nd", "Nl", "Pc"}) set = set.united(*find_property(name));
  return set;
}

/// One character of UTF-8, or U+FFFD for the maximal part of one, and how many bytes it takes.
struct Decoded {
  char32_t code_point;
  std::size_t size;
};

Decoded decode_one(std::string_view bytes, std::size_t begin) {
  constexpr char32_t kReplacement = 0xFFFD;
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(bytes[i]); };
  const std::uint8_t lead = byte(begin);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xC2 || lead > 0xF4) return {kReplacement, 1};
  const std::size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // Only the second byte's range depends on the first: no surrogates, no overlong forms, nothing above U+10FFFF.
  std::uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  std::uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code_point = lead & (0x7Fu >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if (begin + i == bytes.size() || byte(begin + i) < low || byte(begin + i) > high) return {kReplacement, i};
    code_point = code_point << 6 | (byte(begin + i) & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {code_point, size};
}

}  // namespace

std::u32string decode_utf8(std::string_view bytes) {
  std::u32string out;
  out.reserve(bytes.size());
  for (std::size_t i = 0; i < bytes.size();) {
    const Decoded one = decode_one(bytes, i);
    out.push_back(one.code_point);
    i += one.size;
  }
  return out;
}

void append_utf8(char32_t code_point, std::string& out) {
  const auto add = [&](char32_t bits) { out.push_back(static_cast<char>(bits)); };
  if (code_point < 0x80) {
    add(code_point);
  } else if (code_point < 0x800) {
    add(0xC0 | code_point >> 6);
    add(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    add(0xE0 | code_point >> 12);
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  } else {
    add(0xF0 | code_point >> 18);
    add(0x80 | (code_point >> 12 & 0x3F));
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  }
}

std::string encode_utf8(std::u32string_view code_points) {
  std::string out;
  out.reserve(code_points.size());
  for (const char32_t code_point : code_points) append_utf8(code_point, out);
  return out;
}

std::optional<CodePointSet> find_property(std::string_view name) {
  std::string wanted;
  for (const char c : name) {
    if (c == ' ' || c == '-' || c == '_') continue;
    wanted.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c);
  }
  if (wanted.empty()) return std::nullopt;
  std::array<bool, kCategoryNames.size()> chosen{};
  bool any = false;
  for (std::size_t i = 0; i < kCategoryNames.size(); ++i) {
    chosen[i] = wanted == kCategoryNames[i] || wanted == kCategoryNames[i].substr(0, 1);
    any = any || chosen[i];
  }
  if (!any) return std::nullopt;
  std::vector<CodePointSet::Range> ranges;
  char32_t first = 0;
  for (const std::uint32_t run : kCategoryRuns) {
    const char32_t next = first + (run >> 5);
    if (chosen[run & 31]) ranges.push_back({first, next - 1});
    first = next;
  }
  return CodePointSet(std::move(ranges));
}

const CodePointSet& white_space() {
  static const CodePointSet set = set_of(kWhiteSpace);
  return set;
}

const CodePointSet& word_characters() {
  static const CodePointSet set = letters_marks_digits_and_connectors().united(set_of(kWordExtras));
  return set;
}

const CodePointSet& bare_word_characters() {
  static const CodePointSet set = word_characters().united(set_of(kBareWordExtras));
  return set;
}

const CodePointSet& added_token_word_characters() {
  static const CodePointSet set = letters_marks_digits_and_connectors().united(set_of(kAddedTokenWordExtras));
  return set;
}

const CodePointSet& numeric_characters() {
  static const CodePointSet set = find_property("N")->united(set_of(kNumericExtras));
  return set;
}

}  // namespace layerprobe::tokenizer
