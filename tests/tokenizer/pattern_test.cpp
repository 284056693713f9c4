#include "tokenizer/pattern.h"

#include <doctest/doctest.h>

#include <chrono>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {
namespace {

/// "0-3 5-5": where the pattern matches.
std::string matches(const char* pattern, std::u32string_view text) {
  const Pattern compiled(pattern, "test");
  PatternRun run(text.size());
  std::vector<Pattern::Match> found;
  compiled.find_all(compiled.kinds_of(text), run, found);
  std::vector<std::string> words;
  for (const Pattern::Match& match : found) words.push_back(layerprobe::text(match.begin, "-", match.end));
  return join(words, " ");
}

}  // namespace

TEST_CASE("sets, properties and escapes match what Oniguruma matches") {
  CHECK(matches(R"(\p{L}+)", U"ab1\u6f22") == "0-2 3-4");
  CHECK(matches(R"([^\s\p{L}]+)", U"a- b!?") == "1-2 4-6");
  CHECK(matches(R"([\p{L}&&[^ab]]+)", U"abcda") == "2-4");
  CHECK(matches(R"([a[bc]\-x-])", U"a-bxy") == "0-1 1-2 2-3 3-4");
  CHECK(matches(R"(\x41|\x{42}|\u0043|\t|\.)", U"ABC\t.") == "0-1 1-2 2-3 3-4 4-5");
  CHECK(matches(R"(\P{^Lu})", U"aB") == "1-2");
  CHECK(matches(R"(\h\H)", U"fgz") == "0-2");
  CHECK(matches(R"(.)", U"a\n\r") == "0-1 2-3");
  CHECK(matches("[\u00e9-\u00eb]", U"\u00e8\u00ea") == "1-2");
  CHECK(matches(R"(\w|\d)", U"\u00bd") == "0-1");
  CHECK(matches(R"([\w])", U"\u00bd") == "");
  CHECK(matches(R"([^\s\S])", U"ab") == "");
}

TEST_CASE("repetition, groups, look-around and anchors match what Oniguruma matches") {
  CHECK(matches("a{2}", U"aaaaa") == "0-2 2-4");
  CHECK(matches("ba{,2}", U"baaab") == "0-3 4-5");
  CHECK(matches("a{,b{", U"a{,b{") == "0-5");  // no interval: characters
  CHECK(matches("a+?|b*+b|c?", U"aab") == "0-1 1-2 3-3");
  CHECK(matches("(?<!a)b(?=c)|(?<=a)b(?!c)", U"abc bc ab") == "4-5 8-9");
  CHECK(matches(R"(\s+(?!\S)|\s)", U"a   b  ") == "1-3 3-4 5-7");
  CHECK(matches("^a|a$", U"a\na a\n") == "0-1 2-3 4-5");
  CHECK(matches(R"(\Aa|a\z)", U"a\na") == "0-1 2-3");
  CHECK(matches(R"(\bb|\Bb)", U"b ab") == "0-1 3-4");
  CHECK(matches("(a|ab)(?:c|bcd)", U"abcd") == "0-4");
  CHECK(matches("(?>a|ab)c", U"abc") == "");
}

TEST_CASE("without regard to case s is also U+017F and k U+212A") {
  CHECK(matches("(?i:'s|[k])", U"'S'\u017fK\u212a") == "0-2 2-4 4-5 5-6");
  CHECK(matches("(?i:a(?-i:b))", U"Ab AB") == "0-2");
}

TEST_CASE("empty matches cut, but not right behind another match") {
  CHECK(matches(R"((?=b))", U"abb") == "1-1 2-2");
  CHECK(matches("a*", U"aab") == "0-2 3-3");
  CHECK(matches("", U"ab") == "0-0 1-1 2-2");
}

TEST_CASE("what PCRE2 gets wrong about atomic groups is right") {
  CHECK(matches(R"((?>[ab]+|c?)\B)", U"ab") == "");   // 10.42, compiled to machine code
  CHECK(matches("[ab]*(?>c?)(?=a)", U"a") == "0-0");  // 10.42
  CHECK(matches("[ab]*(?:(?:x|y))?+(?=a)", U"a") == "0-0");
}

TEST_CASE("a pattern that is not supported is refused with the place in it") {
  const auto refused = [](const char* pattern, const char* words) {
    CAPTURE(pattern);
    CHECK_THROWS_WITH_AS(Pattern(pattern, "tokenizer.json: pre_tokenizer"), doctest::Contains(words), Error);
  };
  refused("ab\\p{Han}", "tokenizer.json: pre_tokenizer: character 3 of the pattern: the property \"Han\"");
  refused("(?<name", "this kind of group");
  refused("(?m:.)", "this kind of group");
  refused("(a", "\"(\" without \")\"");
  refused("a)", "\")\" without \"(\"");
  refused("[a", "ends too early");
  refused("[]a]", "\"]\" first");
  refused("[[:alpha:]]", "POSIX");
  refused("[b-a]", "backwards");
  refused("[a-\\d]", "range that ends with a set");
  refused("[\\d-z]", "range that begins with a set");
  refused("\\1", "\\1");
  refused("\\K", "\\K");
  refused("\\", "ends too early");
  refused("\\pL", "\\p without");
  refused("\\p{L", "ends too early");
  refused("\\x{110000}", "hexadecimal");
  refused("\\u12", "hexadecimal");
  refused("*a", "repetition of nothing");
  refused("a**", "repetition of a repetition");
  refused("a{2}+", "after this \"}\"");
  refused("a{2}?", "after this \"}\"");
  refused("(?=a)*", "repetition of an assertion");
  refused("^*", "repetition of an assertion");
  refused("(a*)*", "repetition of a group that can match nothing");
  refused("(?:a|\\b)+", "repetition of a group that can match nothing");
  refused("(?i:ss)", "\"ss\" without regard to case");
  refused("(?i:\u00e9)", "beyond ASCII");
  refused("(?i:\\p{L})", "without regard to case");
  refused("(?:(?:a{1,999}){1,999}){1,999}", "PCRE2 does not take the pattern");
  refused("(?<=a*)b", "PCRE2 does not take the pattern");
  refused(std::string(200, '(').c_str(), "nesting deeper");
  refused(("[" + std::string(200, '[')).c_str(), "nesting deeper");
  refused(std::string(30'000, 'a').c_str(), "30000 characters");
  const auto different_characters = [](char32_t count) {
    std::string pattern;
    for (char32_t c = 0x4E00; c < 0x4E00 + count; ++c) append_utf8(c, pattern);
    return pattern;
  };
  refused(different_characters(256).c_str(), "more than 256 kinds of characters");
  refused(different_characters(257).c_str(), "more than 256 character sets");
}

TEST_CASE("a hostile pattern is an Error and not a hang") {
  const std::u32string few(60, 'a');
  const std::u32string many(200'000, 'a');
  for (const char* pattern : {"(a+)+(?:b|c)", "(?:a|a)*(?:b|c)", "(?:a|aa)+(?:b|c)", "(?>(a+)+(?:b|c))",
                              "(?=(a+)+(?:b|c))", "(?:a(?:a(?:a(?:a)*)*)*)*(?:b|c)"}) {
    CAPTURE(pattern);
    CHECK_THROWS_WITH_AS(matches(pattern, few), doctest::Contains("takes too many steps"), Error);
  }
  for (const char* pattern : {"(?:a|b)+(?:c|d)", "(?<=(?:a|b))a*?(?:c|d)", "a*a*(?:b|c)"}) {
    CAPTURE(pattern);
    CHECK_THROWS_WITH_AS(matches(pattern, many), doctest::Contains("takes too many steps"), Error);
  }
}

TEST_CASE("a long hostile pattern is no slower to be found out than a short one") {
  std::string alternatives;
  for (char a = 'b'; a <= 'g'; ++a) {
    for (char b = 'a'; b <= 'z'; ++b) alternatives += std::string("a") + a + b + "|";
  }
  const auto start = std::chrono::steady_clock::now();
  CHECK_THROWS_WITH_AS(matches(("(?:(?:" + alternatives + "a)+)+(?:!|,)").c_str(), std::u32string(60, 'a')),
                       doctest::Contains("takes too many steps"), Error);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
}

TEST_CASE("a pattern that takes too much memory is an Error") {
  CHECK_THROWS_WITH_AS(matches("(?>(?:a|b)+)", std::u32string(1'000'000, 'a')),
                       doctest::Contains("fails on a text of 1000000 characters: heap limit"), Error);
}

TEST_CASE("a million characters in one match are no trouble") {
  const std::u32string spaces = std::u32string(1'000'000, ' ') + U"x";
  CHECK(matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", spaces) == "0-999999 999999-1000000");
  const std::u32string letters(1'000'000, 'a');
  CHECK(matches(R"((?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+)", letters) == "0-1000000");  // a group a million times
}

}  // namespace layerprobe::tokenizer
