#include "tokenizer/pattern_syntax.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/character_kinds.h"
#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {
namespace {

constexpr std::size_t kMaxPatternCharacters = 20'000;
constexpr int kMaxDepth = 100;
constexpr std::size_t kMaxSets = 256;
constexpr char32_t kEnd = 0xFFFFFFFF;  // what follows the last character

bool is_digit(char32_t c) { return c >= '0' && c <= '9'; }
bool is_ascii_letter(char32_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// PCRE2 text with a character set at some places: `text`, then the set of that index unless it is -1.
struct Part {
  std::string text;
  int set = -1;
};

class Reader {
 public:
  Reader(std::string_view pattern, const std::string& where) : pattern_(decode_utf8(pattern)), where_(where) {
    if (pattern_.size() > kMaxPatternCharacters) {
      throw refused(text("a pattern of ", pattern_.size(), " characters; at most ", kMaxPatternCharacters));
    }
  }

  void read() {
    alternatives(/*ignore_case=*/false, 0);
    if (at_ < pattern_.size()) throw refused("\")\" without \"(\"");
  }

  std::vector<Part> parts;
  std::vector<CodePointSet> sets;
  bool has_atomic_group = false;

 private:
  Error refused(const std::string& what) const {
    return Error({.kind = ErrorKind::input,
                  .where = text(where_, ": character ", at_ + 1, " of the pattern"),
                  .what = what + " is not supported in a pattern",
                  .fix = "give token ids (--input-ids) instead of text"});
  }

  char32_t peek(std::size_t ahead = 0) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : kEnd; }
  char32_t next() {
    if (at_ == pattern_.size()) throw refused("a pattern that ends too early");
    return pattern_[at_++];
  }
  bool skip(std::u32string_view wanted) {
    if (std::u32string_view(pattern_).substr(at_, wanted.size()) != wanted) return false;
    at_ += wanted.size();
    return true;
  }

  void add(std::string pcre2) { parts.push_back({std::move(pcre2), -1}); }
  void add(const CodePointSet& set) {
    const auto found = std::find(sets.begin(), sets.end(), set);
    if (found == sets.end() && sets.size() == kMaxSets) throw refused(text("more than ", kMaxSets, " character sets"));
    parts.push_back({"", static_cast<int>(found - sets.begin())});
    if (found == sets.end()) sets.push_back(set);
  }
  void add_around(const char* before, const CodePointSet& set, const char* after) {
    add(before);
    add(set);
    add(after);
  }

  /// Up to ")" or the end. Returns whether they can match nothing.
  bool alternatives(bool ignore_case, int depth) {
    if (depth > kMaxDepth) throw refused(text("nesting deeper than ", kMaxDepth));
    bool any_can_be_empty = false;
    bool can_be_empty = true;  // this alternative, so far
    literal_before_ = 0;
    while (peek() != kEnd && peek() != ')') {
      if (skip(U"|")) {
        add("|");
        any_can_be_empty = any_can_be_empty || can_be_empty;
        can_be_empty = true;
        literal_before_ = 0;
      } else {
        can_be_empty = item(ignore_case, depth) && can_be_empty;
      }
    }
    literal_before_ = 0;
    return any_can_be_empty || can_be_empty;
  }

  /// One character, set, group or assertion, with its repetition. Returns whether it can match nothing.
  bool item(bool ignore_case, int depth) {
    const char32_t before = std::exchange(literal_before_, 0);
    if (skip(U"(")) return group(ignore_case, depth);
    if (assertion()) {
      if (is_repetition()) throw refused("repetition of an assertion");
      return true;
    }
    char32_t literal = 0;
    add(set_or_literal(ignore_case, depth, literal));
    if (is_repetition()) {
      const Repetition times = repetition();
      add("(?C)");
      return times.may_be_none;
    }
    if (ignore_case) {
      // Oniguruma also matches one character for several: U+00DF for "ss", ligatures for "fi". We do not.
      for (const char* folded : {"ss", "st", "ff", "fi", "fl"}) {
        if ((before | 0x20) == static_cast<char32_t>(folded[0]) &&
            (literal | 0x20) == static_cast<char32_t>(folded[1])) {
          throw refused(text("\"", folded, "\" without regard to case"));
        }
      }
    }
    literal_before_ = literal;
    return false;
  }

  bool group(bool ignore_case, int depth) {
    static constexpr std::pair<std::u32string_view, const char*> kLookArounds[] = {
        {U"?=", "(?="}, {U"?!", "(?!"}, {U"?<=", "(?<="}, {U"?<!", "(?<!"}};
    for (const auto& [here, pcre2] : kLookArounds) {
      if (!skip(here)) continue;
      add(pcre2);
      close_group(ignore_case, depth);
      if (is_repetition()) throw refused("repetition of an assertion");
      return true;
    }
    const char* opening = "(?:(?:";
    if (skip(U"?>")) {
      opening = "(?:(?>";
      has_atomic_group = true;
    } else if (skip(U"?i:")) {
      ignore_case = true;
    } else if (skip(U"?-i:")) {
      ignore_case = false;
    } else if (!skip(U"?:") && peek() == '?') {
      throw refused("this kind of group");
    }  // else a capture, which nothing can refer to
    add(opening);
    const bool can_be_empty = close_group(ignore_case, depth);
    add("(?C))");
    if (!is_repetition()) return can_be_empty;
    const Repetition times = repetition();
    has_atomic_group = has_atomic_group || times.is_possessive;
    if (can_be_empty && times.may_be_several) {  // where an empty round ends it differs between the two
      throw refused("repetition of a group that can match nothing");
    }
    return can_be_empty || times.may_be_none;
  }

  bool close_group(bool ignore_case, int depth) {
    const bool can_be_empty = alternatives(ignore_case, depth + 1);
    if (!skip(U")")) throw refused("\"(\" without \")\"");
    add(")");
    return can_be_empty;
  }

  bool assertion() {
    const CodePointSet newline('\n', '\n');
    if (skip(U"^")) {  // Oniguruma's ^ and $ are of lines, always
      add_around("(?:\\A|(?<=", newline, ")(?!\\z))");
    } else if (skip(U"$")) {
      add_around("(?=", newline, "|\\z)");
    } else if (skip(U"\\A")) {
      add("\\A");
    } else if (skip(U"\\z")) {
      add("\\z");
    } else if (skip(U"\\b")) {
      word_boundary(")(?!", ")(?=");
    } else if (skip(U"\\B")) {
      word_boundary(")(?=", ")(?!");
    } else {
      return false;
    }
    return true;
  }

  void word_boundary(const char* after_word, const char* after_other) {
    const CodePointSet& word = bare_word_characters();
    add_around("(?:(?<=", word, after_word);
    add_around("", word, ")|(?<!");
    add_around("", word, after_other);
    add_around("", word, "))");
  }

  CodePointSet set_or_literal(bool ignore_case, int depth, char32_t& literal) {
    if (skip(U".")) return CodePointSet('\n', '\n').complement();
    if (skip(U"[")) return bracketed(ignore_case, depth + 1);
    if (peek() == '\\') {
      if (const std::optional<CodePointSet> set = set_escape(bare_word_characters())) {
        if (ignore_case) throw refused("a character set without regard to case");
        return *set;
      }
      literal = literal_escape();
    } else if (is_repetition()) {
      throw refused("repetition of nothing");
    } else {
      literal = next();
    }
    return cases_of({literal, literal}, ignore_case);
  }

  /// "\p{L}", "\s", ...; nothing, and nothing read, for an escaped character.
  std::optional<CodePointSet> set_escape(const CodePointSet& word) {
    const char32_t letter = peek(1);
    std::optional<CodePointSet> set;
    switch (is_ascii_letter(letter) ? letter | 0x20 : 0) {
      case 's':
        set = white_space();
        break;
      case 'd':
        set = find_property("Nd");
        break;
      case 'w':
        set = word;
        break;
      case 'h':
        set = CodePointSet({{'0', '9'}, {'A', 'F'}, {'a', 'f'}});
        break;
      case 'p':
        return property();
      default:
        return std::nullopt;
    }
    at_ += 2;
    return letter < 'a' ? set->complement() : *set;
  }

  CodePointSet property() {
    const std::size_t begin = at_;
    bool negated = peek(1) == 'P';
    at_ += 2;
    if (!skip(U"{")) throw refused("\\p without \"{\"");
    if (skip(U"^")) negated = !negated;
    std::u32string name;
    while (peek() != '}') name.push_back(next());
    ++at_;
    const std::optional<CodePointSet> set = find_property(encode_utf8(name));
    if (!set) {
      at_ = begin;
      throw refused(text("the property \"", encode_utf8(name), "\" (general categories are: \"L\", \"Lu\", ...)"));
    }
    return negated ? set->complement() : *set;
  }

  char32_t literal_escape() {
    ++at_;
    const char32_t c = next();
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'v':
        return '\v';
      case 'f':
        return '\f';
      case 'a':
        return '\a';
      case 'e':
        return 0x1B;
      case 'u':
        return hexadecimal(4, 4);
      case 'x':
        if (!skip(U"{")) return hexadecimal(1, 2);
        {
          const char32_t code_point = hexadecimal(1, 8);
          if (!skip(U"}")) throw refused("\\x{ without \"}\"");
          return code_point;
        }
      default:
        break;
    }
    if (is_ascii_letter(c) || is_digit(c)) {
      at_ -= 2;
      throw refused(text("\\", static_cast<char>(c)));
    }
    return c;
  }

  char32_t hexadecimal(int min_digits, int max_digits) {
    char32_t value = 0;
    int digits = 0;
    for (; digits < max_digits; ++digits) {
      const char32_t c = peek();
      const char32_t lower = c | 0x20;
      if (is_digit(c)) {
        value = value * 16 + (c - '0');
      } else if (is_ascii_letter(c) && lower <= 'f') {
        value = value * 16 + (lower - 'a' + 10);
      } else {
        break;
      }
      ++at_;
    }
    if (digits < min_digits || value > kLastCodePoint) throw refused("this hexadecimal number");
    return value;
  }

  /// What follows "[", to its "]".
  CodePointSet bracketed(bool ignore_case, int depth) {
    if (depth > kMaxDepth) throw refused(text("nesting deeper than ", kMaxDepth));
    const bool negated = skip(U"^");
    if (peek() == ']') throw refused("\"]\" first in a set");
    std::vector<CodePointSet::Range> ranges;
    std::optional<CodePointSet> before_and;
    const auto add_set = [&](const CodePointSet& set) {
      ranges.insert(ranges.end(), set.ranges().begin(), set.ranges().end());
    };
    const auto close_operand = [&] {
      const CodePointSet operand(std::exchange(ranges, {}));
      before_and = before_and ? before_and->intersected(operand) : operand;
    };
    while (!skip(U"]")) {
      if (skip(U"&&")) {
        close_operand();
      } else if (peek() == '[' && peek(1) == ':') {
        throw refused("a POSIX bracket");
      } else if (skip(U"[")) {
        add_set(bracketed(ignore_case, depth + 1));
      } else if (const auto set = peek() == '\\' ? set_escape(word_characters()) : std::nullopt) {
        if (ignore_case) throw refused("a character set without regard to case");
        add_set(*set);
        if (peek() == '-' && peek(1) != ']') throw refused("a range that begins with a set");
      } else {
        const char32_t first = set_member();
        char32_t last = first;
        if (peek() == '-' && peek(1) != ']') {
          ++at_;
          if (peek() == '[' || (peek() == '\\' && set_escape(word_characters())))
            throw refused("a range that ends with a set");
          last = set_member();
        }
        if (last < first) throw refused("a range that runs backwards");
        add_set(cases_of({first, last}, ignore_case));
      }
    }
    close_operand();
    return negated ? before_and->complement() : *before_and;
  }

  char32_t set_member() { return peek() == '\\' ? literal_escape() : next(); }

  CodePointSet cases_of(CodePointSet::Range range, bool ignore_case) const {
    if (!ignore_case) return CodePointSet(range.first, range.last);
    if (range.last >= 0x80) throw refused("a character beyond ASCII without regard to case");
    std::vector<CodePointSet::Range> ranges = {range};
    for (char32_t c = range.first; c <= range.last; ++c) {
      if (!is_ascii_letter(c)) continue;
      ranges.push_back({c ^ 0x20, c ^ 0x20});
      if ((c | 0x20) == 's') ranges.push_back({0x17F, 0x17F});    // LATIN SMALL LETTER LONG S
      if ((c | 0x20) == 'k') ranges.push_back({0x212A, 0x212A});  // KELVIN SIGN
    }
    return CodePointSet(std::move(ranges));
  }

  struct Interval {
    std::string least, most;  // decimal; most is "" where there is no limit
    std::size_t size;         // characters that "{n,m}" takes
  };

  /// The "{n}", "{n,}", "{,m}" or "{n,m}" here, if there is one: any other "{" is a character.
  std::optional<Interval> interval() const {
    if (peek() != '{') return std::nullopt;
    std::size_t i = 1;
    const auto number = [&] {
      std::string digits;
      for (; is_digit(peek(i)); ++i) digits.push_back(static_cast<char>(peek(i)));
      return digits;
    };
    Interval out{};
    out.least = number();
    out.most = out.least;
    if (peek(i) == ',') {
      ++i;
      out.most = number();
      if (out.least.empty() && out.most.empty()) return std::nullopt;
      if (out.least.empty()) out.least.push_back('0');
    }
    if (peek(i) != '}' || out.least.empty()) return std::nullopt;
    out.size = i + 1;
    return out;
  }

  bool is_repetition() const { return peek() == '*' || peek() == '+' || peek() == '?' || interval().has_value(); }

  struct Repetition {
    bool may_be_none, may_be_several, is_possessive;
  };

  Repetition repetition() {
    Repetition times{};
    if (const std::optional<Interval> given = interval()) {
      const bool exact = given->least == given->most;
      times = {.may_be_none = given->least.find_first_not_of('0') == std::string::npos,
               .may_be_several = given->most != "0" && given->most != "1",
               .is_possessive = false};
      at_ += given->size;
      if (peek() == '+' || (peek() == '?' && exact)) throw refused("\"+\" or \"?\" after this \"}\"");
      add(exact ? text("{", given->least, "}") : text("{", given->least, ",", given->most, "}"));
      if (skip(U"?")) add("?");
    } else {
      times = {.may_be_none = peek() != '+', .may_be_several = peek() != '?', .is_possessive = peek(1) == '+'};
      add(std::string(1, static_cast<char>(next())));
      if (peek() == '?' || peek() == '+') add(std::string(1, static_cast<char>(next())));  // lazy, possessive
    }
    if (is_repetition()) throw refused("a repetition of a repetition");
    return times;
  }

  const std::u32string pattern_;
  const std::string& where_;
  std::size_t at_ = 0;
  char32_t literal_before_ = 0;  // the character that the item before was, or 0
};

/// "[\x00\x03]"
std::string byte_set(const std::string& members) {
  if (members.empty()) return "(?:(?!))";  // matches nothing
  std::string out = "[";
  for (const char member : members) {
    constexpr char kDigits[] = "0123456789abcdef";
    const auto byte = static_cast<std::uint8_t>(member);
    out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  out.push_back(']');
  return out;
}

}  // namespace

BytePattern translate_pattern(std::string_view oniguruma, const std::string& where) {
  Reader reader(oniguruma, where);
  reader.read();
  CharacterKinds kinds = kinds_of(reader.sets, where);
  BytePattern out;
  for (const Part& part : reader.parts) {
    out.pcre2 += part.text;
    if (part.set >= 0) out.pcre2 += byte_set(kinds.members[static_cast<std::size_t>(part.set)]);
  }
  out.byte_of = std::move(kinds.byte_of);
  out.has_atomic_group = reader.has_atomic_group;
  return out;
}

}  // namespace layerprobe::tokenizer
