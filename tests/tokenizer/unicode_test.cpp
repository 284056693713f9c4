#include "tokenizer/unicode.h"

#include <doctest/doctest.h>

#include <ctime>

namespace layerprobe::tokenizer {

TEST_CASE("what is no UTF-8 becomes U+FFFD as in Python's decode(errors=\"replace\")") {
  CHECK(decode_utf8("a\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x98\x80") == U"a\u00e9\u6f22\U0001f600");
  CHECK(decode_utf8("\xff|\x80|\xc3|\xe2\x82|\xf0\x9f\x98|") == U"\ufffd|\ufffd|\ufffd|\ufffd|\ufffd|");
  CHECK(decode_utf8("\xc0\xaf") == U"\ufffd\ufffd");                      // overlong
  CHECK(decode_utf8("\xed\xa0\x80") == U"\ufffd\ufffd\ufffd");            // a surrogate
  CHECK(decode_utf8("\xf4\x90\x80\x80") == U"\ufffd\ufffd\ufffd\ufffd");  // above U+10FFFF
  CHECK(decode_utf8("\xe0\xa0") == U"\ufffd");                            // cut off
  CHECK(decode_utf8("") == U"");
}

TEST_CASE("UTF-8 of code points of every length reads back") {
  const std::u32string text = U"\0\u007f\u0080\u07ff\u0800\uffff\U00010000\U0010ffff";
  CHECK(decode_utf8(encode_utf8(text)) == text);
}

TEST_CASE("find_property knows general categories and their groups in any spelling, and nothing else") {
  CHECK(find_property("Lu")->contains('A'));
  CHECK_FALSE(find_property("Lu")->contains('a'));
  CHECK(find_property(" l_L ")->contains('a'));
  CHECK(find_property("L")->contains(0x10D4A));  // GARAY CAPITAL LETTER A, of Unicode 16.0
  CHECK(find_property("N")->contains(0x0663));
  CHECK(find_property("Cn")->contains(0x10FFFF));
  CHECK(find_property("Cs")->contains(0xD800));
  for (const char* unknown : {"", "X", "Lux", "Han", "Alphabetic"}) CHECK_FALSE(find_property(unknown).has_value());
}

TEST_CASE("the sets of code points partition what they should") {
  const CodePointSet letters = *find_property("L");
  CHECK(letters.united(letters.complement()).ranges() == std::vector<CodePointSet::Range>{{0, kLastCodePoint}});
  CHECK(letters.intersected(letters.complement()).ranges().empty());
  CHECK(CodePointSet({{5, 9}, {1, 2}, {3, 4}, {8, 12}}).ranges() == std::vector<CodePointSet::Range>{{1, 12}});
  CHECK_FALSE(CodePointSet(5, 9).contains(4));
  CHECK(CodePointSet(5, 9).contains(9));
  CHECK_FALSE(CodePointSet(5, 9).contains(10));
}

TEST_CASE("the word characters differ where Oniguruma's and Rust's do") {
  CHECK(word_characters().contains('_'));
  CHECK_FALSE(word_characters().contains(0xBD));  // one half
  CHECK(bare_word_characters().contains(0xBD));
  CHECK_FALSE(bare_word_characters().contains(0x200D));
  CHECK(added_token_word_characters().contains(0x200D));
  CHECK(white_space().contains(0x85));
  CHECK_FALSE(white_space().contains(0x180E));
  CHECK_FALSE(white_space().contains(0x200B));
  CHECK(numeric_characters().contains(0x2167));
  CHECK(numeric_characters().contains(0x11DE0));  // of Unicode 17.0
}

TEST_CASE("nfc composes, decomposes and orders") {
  CHECK(nfc(U"plain \u00e9") == U"plain \u00e9");
  CHECK(nfc(U"e\u0301") == U"\u00e9");
  CHECK(nfc(U"\u212b\u2126") == U"\u00c5\u03a9");   // singletons
  CHECK(nfc(U"a\u0308\u0323") == U"\u1ea1\u0308");  // the dot below comes first
  CHECK(nfc(U"q\u0307\u0323") == U"q\u0323\u0307");
  CHECK(nfc(U"\u0344") == U"\u0308\u0301");  // excluded from composition
  CHECK(nfc(U"\u0958") == U"\u0915\u093c");
  CHECK(nfc(U"\u1e9b\u0323") == U"\u1e9b\u0323");
  CHECK(nfc(U"u\u0308\u0304") == U"\u01d6");        // in two steps
  CHECK(nfc(U"a\u0328\u0301") == U"\u0105\u0301");  // nothing composes with both
  CHECK(nfc(U"\u0301e\u0301") == U"\u0301\u00e9");  // a mark without a base
  CHECK(nfc(U"a\u05b0\u0301") == U"\u00e1\u05b0");  // over a mark of a lower class
  CHECK(nfc(U"a\u0332\u0320\u0301") == U"\u00e1\u0332\u0320");
  CHECK(nfc(U"a\u0300\u0301") == U"\u00e0\u0301");  // not over one of its own class
  CHECK(nfc(U"\uf900") == U"\u8c48");
}

TEST_CASE("nfc composes Hangul") {
  CHECK(nfc(U"\u1112\u1161\u11ab") == U"\ud55c");
  CHECK(nfc(U"\uac00\u11a8") == U"\uac01");
  CHECK(nfc(U"\uac01\u11a8") == U"\uac01\u11a8");  // has its trailing consonant already
  CHECK(nfc(U"\u1100\u11a8") == U"\u1100\u11a8");
  CHECK(nfc(U"\uac00\u11a7") == U"\uac00\u11a7");  // just before the first trailing consonant
  CHECK(nfc(U"\ud7a3") == U"\ud7a3");
}

TEST_CASE("to put a run of half a million marks in order takes a second, not hours") {
  const std::clock_t begin = std::clock();
  std::u32string marks = U"a";
  for (int i = 0; i < 250'000; ++i) marks += U"\u0301\u0323";
  const std::u32string ordered = nfc(marks);
  CHECK(ordered.front() == 0x1EA1);
  CHECK(ordered.back() == 0x0301);
  CHECK((std::clock() - begin) / CLOCKS_PER_SEC < 30);
}

}  // namespace layerprobe::tokenizer
