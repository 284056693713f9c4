#include "tokenizer/bpe.h"

#include <doctest/doctest.h>

#include <ctime>

#include "base/error.h"

namespace layerprobe::tokenizer {
namespace {

using Ids = std::vector<std::int32_t>;

Ids ids_of(const Bpe& bpe, std::string_view piece) {
  Ids ids;
  bpe.append_ids(piece, ids);
  return ids;
}

Bpe::Model letters() {
  return {.vocabulary = {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"bc", 4}, {"abc", 5}, {"aa", 6}, {"aaaa", 7}}};
}

}  // namespace

TEST_CASE("the pair of the lowest rank is merged first, then the leftmost") {
  Bpe::Model model = letters();
  model.merges = {{"b", "c"}, {"a", "b"}, {"ab", "c"}, {"a", "a"}, {"aa", "aa"}};
  const Bpe bpe(model, "test");
  CHECK(ids_of(bpe, "abc") == Ids{0, 4});  // b+c goes before a+b
  CHECK(ids_of(bpe, "ab") == Ids{3});
  CHECK(ids_of(bpe, "aaa") == Ids{6, 0});
  CHECK(ids_of(bpe, "aaaaaa") == Ids{7, 6});
  CHECK(ids_of(bpe, "") == Ids{});
}

TEST_CASE("of a merge that stands twice the later rank counts") {
  Bpe::Model model = letters();
  model.merges = {{"a", "b"}, {"b", "c"}, {"a", "b"}};
  CHECK(ids_of(Bpe(model, "test"), "abc") == Ids{0, 4});
}

TEST_CASE("a whole piece is its token where merges are ignored") {
  Bpe::Model model = letters();
  model.vocabulary.emplace_back("\u0120a", 8);  // " a"
  model.ignore_merges = true;
  const Bpe bpe(model, "test");
  CHECK(ids_of(bpe, "abc") == Ids{5});
  CHECK(ids_of(bpe, " a") == Ids{8});
  CHECK(ids_of(bpe, "abca") == Ids{0, 1, 2, 0});
}

TEST_CASE("a byte without a token is left out, or is the unk token, one for a run where they are fused") {
  Bpe::Model model = letters();
  CHECK(ids_of(Bpe(model, "test"), "axyb") == Ids{0, 1});
  CHECK(ids_of(Bpe(model, "test"), "xy") == Ids{});
  model.vocabulary.emplace_back("<unk>", 9);
  model.unk_token = "<unk>";
  CHECK(ids_of(Bpe(model, "test"), "axybz") == Ids{0, 9, 9, 1, 9});
  model.fuse_unk = true;
  CHECK(ids_of(Bpe(model, "test"), "axybz") == Ids{0, 9, 1, 9});
}

TEST_CASE("a piece of a million bytes takes a second, not hours") {
  const std::clock_t begin = std::clock();
  Bpe::Model model{.vocabulary = {{"a", 0}}};
  std::string token = "a";
  for (std::int32_t id = 1; id < 10; ++id) {
    model.merges.emplace_back(token, token);
    token += token;
    model.vocabulary.emplace_back(token, id);
  }
  CHECK(ids_of(Bpe(model, "test"), std::string(1 << 20, 'a')) == Ids(1 << 11, 9));
  CHECK((std::clock() - begin) / CLOCKS_PER_SEC < 30);
}

TEST_CASE("a model that contradicts itself is refused") {
  const auto refused = [](const Bpe::Model& model, const char* words) {
    CHECK_THROWS_WITH_AS(Bpe(model, "model"), doctest::Contains(words), Error);
  };
  Bpe::Model model = letters();
  model.merges = {{"a", "x"}};
  refused(model, "model: a merge needs the token \"x\"");
  model.merges = {{"c", "a"}};
  refused(model, "a merge needs the token \"ca\"");
  model = letters();
  model.unk_token = "<unk>";
  refused(model, "<unk>");
  refused({.vocabulary = {{"a", 0}, {"a", 1}}}, "the token \"a\" stands twice");
  refused({.vocabulary = {{"a", -1}}}, "the token \"a\" has the id -1");
}

}  // namespace layerprobe::tokenizer
