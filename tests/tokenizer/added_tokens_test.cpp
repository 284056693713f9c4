#include "tokenizer/added_tokens.h"

#include <doctest/doctest.h>

#include <chrono>

#include "base/text.h"
#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {
namespace {

/// "ab|<7>|c": the segments, tokens by their ids and with what they took along.
std::string cut(const AddedTokens& tokens, std::u32string_view given) {
  std::vector<std::string> words;
  for (const AddedTokens::Segment& segment : tokens.segments_of(given)) {
    const std::string its_text = encode_utf8(segment.text);
    words.push_back(segment.id == AddedTokens::kNone ? its_text : text("<", segment.id, ":", its_text, ">"));
  }
  return join(words, "|");
}

}  // namespace

TEST_CASE("the leftmost added token is found, and of those the longest") {
  const AddedTokens tokens({{U"<a", 1}, {U"<a>", 2}, {U"<a>b>", 3}, {U"a>b", 4}, {U"\u6f22\u5b57", 5}});
  CHECK(cut(tokens, U"x<a>b>y") == "x|<3:<a>b>>|y");
  CHECK(cut(tokens, U"<a>bc") == "<2:<a>>|bc");
  CHECK(cut(tokens, U"<<ab") == "<|<1:<a>|b");
  CHECK(cut(tokens, U"a>b\u6f22\u5b57\u6f22") == "<4:a>b>|<5:\u6f22\u5b57>|\u6f22");
  CHECK(cut(tokens, U"") == "");
  CHECK(cut(AddedTokens({}), U"abc") == "abc");
}

TEST_CASE("a single word matches only beside no word character") {
  const AddedTokens tokens({{.content = U"cat", .id = 1, .single_word = true}});
  CHECK(cut(tokens, U"cat cats -cat\u00e9 cat") == "<1:cat>| cats -cat\u00e9 |<1:cat>");
  CHECK(cut(tokens, U"catcat cat_") == "catcat cat_");
  CHECK(cut(tokens, U"(cat)") == "(|<1:cat>|)");
}

TEST_CASE("lstrip and rstrip take white space along, what an earlier token took apart") {
  const AddedTokens tokens({{.content = U"L", .id = 1, .lstrip = true},
                            {.content = U"R", .id = 2, .rstrip = true},
                            {.content = U"B", .id = 3, .lstrip = true, .rstrip = true}});
  CHECK(cut(tokens, U"a \n L b") == "a|<1: \n L>| b");
  CHECK(cut(tokens, U"a R\t\u3000b") == "a |<2:R\t\u3000>|b");
  CHECK(cut(tokens, U" B  B ") == "<3: B  >|<3:B >");
  CHECK(cut(tokens, U"R L") == "<2:R >|<1:L>");
}

TEST_CASE("tokens of white space take time in proportion to the text") {
  const AddedTokens tokens({{.content = U" ", .id = 1, .lstrip = true, .rstrip = true}});
  CHECK(cut(tokens, U"a   b") == "a|<1:   >|<1:  >|<1: >|b");
  const auto start = std::chrono::steady_clock::now();
  CHECK(tokens.segments_of(std::u32string(1'000'000, ' ')).size() == 1'000'000);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));  // a quadratic search takes longer
}

TEST_CASE("a hundred thousand tokens that begin differently are put in order at once") {
  std::vector<AddedToken> many;
  for (char32_t c = 100'000; c > 0; --c) many.push_back({.content = {c}, .id = static_cast<std::int32_t>(c)});
  CHECK(cut(AddedTokens(std::move(many)), U"a\x02") == "<97:a>|<2:\x02>");
}

}  // namespace layerprobe::tokenizer
