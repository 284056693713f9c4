#include <doctest/doctest.h>

#include "base/error.h"
#include "base/text.h"
#include "tests/support/temp_folder.h"
#include "tokenizer/tokenizer.h"

namespace layerprobe::tokenizer {
namespace {

using Ids = std::vector<std::int32_t>;

/// A tokenizer.json of three letters and three merges, with one change: `from`, which it holds, becomes `to`.
std::string small_json(const std::string& from = "{", const std::string& to = "{") {
  std::string json = R"({"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [
      {"id": 9, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
       "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
      "vocab": {"a": 0, "b": 1, "1": 2, "ab": 3, "aba": 4},
      "merges": ["#version: 0.2", "a b", ["ab", "a"]]}})";
  const std::size_t at = json.find(from);
  REQUIRE(at != std::string::npos);
  return json.replace(at, from.size(), to);
}

Tokenizer open(const std::string& json, const std::string& config = "") {
  const test::TempFolder folder;
  folder.write("tokenizer.json", json);
  if (!config.empty()) folder.write("tokenizer_config.json", config);
  return Tokenizer::from_folder(folder.path());
}

}  // namespace

TEST_CASE("a tokenizer.json gives ids, with its template's around them where they are asked for") {
  const Tokenizer tokenizer = open(small_json());
  CHECK(tokenizer.encode("abab1aba") == Ids{9, 3, 3, 2, 4});
  CHECK(tokenizer.encode("aba<s>b", /*add_special_tokens=*/false) == Ids{4, 9, 1});
  CHECK(tokenizer.encode("") == Ids{9});
  CHECK(tokenizer.vocab_size() == 10);
}

TEST_CASE("tokenizer_config.json adds BOS and EOS where it asks for them and the template does not add them") {
  const std::string plain = small_json("{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, ", "");
  CHECK(open(plain).encode("a") == Ids{0});
  CHECK(open(plain, R"({"add_bos_token": true, "bos_token": "<s>"})").encode("a") == Ids{9, 0});
  CHECK(open(plain, R"({"add_bos_token": true, "bos_token": {"content": "<s>"}})").encode("a") == Ids{9, 0});
  CHECK(open(plain, R"({"add_eos_token": true, "eos_token": "<s>"})").encode("a") == Ids{0, 9});
  CHECK(open(plain, R"({"add_bos_token": false, "bos_token": null})").encode("a") == Ids{0});
  CHECK(open(plain, R"({"add_bos_token": null, "bos_token": "<s>"})").encode("a") == Ids{0});
  CHECK(open(small_json(), R"({"add_bos_token": true, "bos_token": "<s>"})").encode("a") == Ids{9, 0});
  CHECK(open(small_json(), R"({"add_bos_token": false})").encode("a") == Ids{9, 0});
  CHECK_THROWS_WITH_AS(open(plain, R"({"add_bos_token": true})"), doctest::Contains("bos_token: is missing"), Error);
  CHECK_THROWS_WITH_AS(open(plain, R"({"add_bos_token": true, "bos_token": "<t>"})"),
                       doctest::Contains("tokenizer_config.json: bos_token: is \"<t>\", which is no token"), Error);
  CHECK_THROWS_WITH_AS(open(plain, R"({"add_bos_token": 1})"), doctest::Contains("add_bos_token: is of kind integer"),
                       Error);
}

TEST_CASE("what tokenizer.json may leave out or say otherwise is understood") {
  CHECK(open(small_json("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}")).encode("a") == Ids{9, 0});
  CHECK(open(small_json("\"type\": \"BPE\", \"dropout\": null", "\"dropout\": 0.0")).encode("ab") == Ids{9, 3});
  CHECK(open(small_json("\"ignore_merges\": false,", "")).encode("ab") == Ids{9, 3});
  CHECK(open(small_json("\"decoder\": {\"type\": \"ByteLevel\"}", "\"decoder\": null")).encode("ab") == Ids{9, 3});
  const std::string doubled =
      small_json(R"("post_processor": {)",
                 R"("post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}]}, "x": {)");
  CHECK_THROWS_WITH_AS(open(doubled), doctest::Contains("tokenizer.json: x: is not known here"), Error);
}

TEST_CASE("a part of tokenizer.json that is unknown or damaged is named") {
  struct Change {
    const char *from, *to, *words;
  };
  const Change changes[] = {
      {R"("version": "1.0")", R"("version": "2.0")", "tokenizer.json: version: is \"2.0\""},
      {R"("normalizer": null)", R"("normalizer": {"type": "Lowercase"})",
       "tokenizer.json: normalizer.type: is \"Lowercase\"; known normalizers are NFC and Sequence"},
      {R"("normalizer": null)", R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]})",
       "normalizer.normalizers[0].type: is \"NFKC\""},
      {R"("normalizer": null)", R"("normalizer": {"type": "NFC", "form": 1})", "normalizer.form: is not known here"},
      {R"("type": "Split")", R"("type": "Metaspace")", "pre_tokenizer.pretokenizers[0].type: is \"Metaspace\""},
      {R"("Isolated")", R"("Shredded")", "pre_tokenizer.pretokenizers[0].behavior: is \"Shredded\""},
      {R"({"Regex": "\\p{N}"})", R"({"Regex": "\\p{Han}"})", "pretokenizers[0].pattern: character 1 of the pattern"},
      {R"({"Regex": "\\p{N}"})", R"({"Glob": "*"})", "pretokenizers[0].pattern.Glob: is not known here"},
      {R"({"Regex": "\\p{N}"})", R"(3)", "pretokenizers[0].pattern: is of kind integer where an object is expected"},
      {R"("invert": false)", R"("invert": 0)",
       "pretokenizers[0].invert: is of kind integer where a boolean is expected"},
      {R"("type": "ByteLevel", "add_prefix_space": false)",
       R"("type": "Digits", "individual_digits": true, "x": false)", "pretokenizers[1].x: is not known here"},
      {R"({"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Isolated", "invert": false})",
       R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})",
       "pretokenizers[1].type: is \"ByteLevel\" after ByteLevel"},
      {R"("pre_tokenizer": {)", R"("pre_tokenizer": null, "decoder": {"type": "ByteLevel"}, "padding": {)",
       "stands twice"},
      {R"("type": "TemplateProcessing")", R"("type": "BertProcessing")",
       "post_processor.type: is \"BertProcessing\"; known post-processors"},
      {R"("SpecialToken": {"id": "<s>")", R"("SpecialToken": {"id": "<t>")",
       "post_processor.special_tokens.<t>: is missing"},
      {R"("ids": [9])", R"("ids": ["9"])", "post_processor.special_tokens.<s>.ids: is not a list of token ids"},
      {R"("ids": [9])", R"("ids": [-9])", "ids: is the token id -9"},
      {R"({"Sequence": {"id": "A", "type_id": 0}})", R"({"Sequence": {"id": "B", "type_id": 0}})",
       "post_processor.single[1].Sequence: is not the text once"},
      {R"(, {"Sequence": {"id": "A", "type_id": 0}})", "", "post_processor.single: is without the text"},
      {R"("decoder": {"type": "ByteLevel"})", R"("decoder": {"type": "Metaspace"})", "decoder.type: is \"Metaspace\""},
      {R"("type": "BPE")", R"("type": "Unigram")", "model.type: is \"Unigram\"; only byte-level BPE"},
      {R"("dropout": null)", R"("dropout": 0.1)", "model.dropout: is given"},
      {R"("continuing_subword_prefix": "")", R"("continuing_subword_prefix": "##")",
       "continuing_subword_prefix: is not empty"},
      {R"("byte_fallback": false)", R"("byte_fallback": true)", "model.byte_fallback: is true"},
      {R"("fuse_unk": false)", R"("fuse": false)", "model.fuse: is not known here"},
      {R"("unk_token": null)", R"("unk_token": "<unk>")", "a merge needs the token \"<unk>\""},
      {R"("a": 0)", R"("a": "0")", "model.vocab.a: is of kind string where a token id is expected"},
      {R"("a": 0)", R"("a": 3000000000)", "model.vocab.a: is the token id 3000000000"},
      {R"("a": 0)", R"("a": 3)", "has the id 3, which another has too"},
      {R"("a b")", R"("a b c")", "model.merges[1]: is neither"},
      {R"(["ab", "a"])", R"(["ab", 1])", "model.merges[2]: is neither"},
      {R"(["ab", "a"])", R"(["ab", "ab"])", "a merge needs the token \"abab\""},
      {R"("merges": [)", R"("merges": 1, "x": [)", "model.x: is not known here"},
      {R"("id": 9, "content")", R"("id": 1, "content")", "the added token \"<s>\" has the id 1, which \"b\" has too"},
      {R"("content": "<s>")", R"("content": "ab")",
       "the token \"ab\" has the id 3 in the model and 9 as an added token"},
      {R"("special": true)", R"("special": true, "strip": 1)", "added_tokens[0].strip: is not known here"},
      {R"("lstrip": false)", R"("lstrip": "no")", "added_tokens[0].lstrip: is of kind string"},
      {R"("normalized": false,)", R"()", "added_tokens[0].normalized: is missing"},
  };
  for (const Change& change : changes) {
    CAPTURE(change.from);
    CAPTURE(change.to);
    CHECK_THROWS_WITH_AS(open(small_json(change.from, change.to)), doctest::Contains(change.words), Error);
  }
  CHECK_THROWS_WITH_AS(open(small_json("<s>", std::string(1001, 's'))),
                       doctest::Contains("an added token of 1001 bytes; at most 1000"), Error);
}

TEST_CASE("sequences in sequences end somewhere") {
  std::string nested = R"({"type": "NFC"})";
  for (int i = 0; i < 20; ++i) nested = R"({"type": "Sequence", "normalizers": [)" + nested + "]}";
  CHECK_THROWS_WITH_AS(open(small_json("\"normalizer\": null", "\"normalizer\": " + nested)),
                       doctest::Contains("is \"Sequence\""), Error);
}

TEST_CASE("what would take a text's time or the machine's memory is refused") {
  const std::string split =
      R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Isolated", "invert": false},)";
  std::string splits;
  for (int i = 0; i < 64; ++i) splits += split;
  CHECK_THROWS_WITH_AS(open(small_json("\"pretokenizers\": [", "\"pretokenizers\": [" + splits)),
                       doctest::Contains("pretokenizers[64].type: is the splitter after the first 64"), Error);
  std::string pieces;
  for (int i = 0; i < 99; ++i) pieces += R"({"SpecialToken": {"id": "<s>", "type_id": 0}},)";
  CHECK(
      open(small_json("\"single\": [", "\"single\": [" + pieces.substr(pieces.find(',', 40) + 1))).encode("").size() ==
      99);
  CHECK_THROWS_WITH_AS(open(small_json("\"single\": [", "\"single\": [" + pieces)),
                       doctest::Contains("post_processor.single: is of 101 pieces; at most 100 are taken"), Error);
  std::string ids = "9";
  for (int i = 0; i < 100; ++i) ids += ", 9";
  CHECK_THROWS_WITH_AS(open(small_json("\"ids\": [9]", "\"ids\": [" + ids + "]")),
                       doctest::Contains("<s>.ids: is of more than the 100 tokens that may stand around a text"),
                       Error);
  std::string added;
  for (int i = 0; i < 10'001; ++i) {
    added += layerprobe::text(R"({"id": )", 10 + i, R"(, "content": ")", std::string(995, 'x'), 10'000 + i,
                              R"(", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},)");
  }
  CHECK_THROWS_WITH_AS(open(small_json("\"added_tokens\": [", "\"added_tokens\": [" + added)),
                       doctest::Contains("added tokens of more than 10000000 bytes in all"), Error);
}

TEST_CASE("without ByteLevel, or without a file, there is no tokenizer") {
  const test::TempFolder folder;
  CHECK_THROWS_WITH_AS(Tokenizer::from_folder(folder.path()), doctest::Contains("tokenizer.json: no such file"), Error);
  CHECK_THROWS_WITH_AS(open(small_json("\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                                       "\"use_regex\": false",
                                       "\"type\": \"Digits\", \"individual_digits\": true")),
                       doctest::Contains("pre_tokenizer: is without ByteLevel"), Error);
  CHECK_THROWS_WITH_AS(open("[]"), doctest::Contains("tokenizer.json: is of kind array"), Error);
  CHECK_THROWS_WITH_AS(open("{}"), doctest::Contains("tokenizer.json: model: is missing"), Error);
  CHECK_THROWS_WITH_AS(open(small_json().substr(0, 300)), doctest::Contains("not valid JSON"), Error);
}

}  // namespace layerprobe::tokenizer
