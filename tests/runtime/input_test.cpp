#include "runtime/input.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.h"

namespace layerprobe::runtime {
namespace {

/// A folder that goes with its test.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("layerprobe_input_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name, const std::string& contents) const {
    std::ofstream(path_ / name, std::ios::binary) << contents;
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

Input read_input(const InputOptions& options, const std::optional<Shard>& shard, int* encoded = nullptr) {
  model::ModelConfig config;
  config.vocab_size = 100;
  const Encode encode = [&](std::string_view prompt) {  // a letter, a token
    if (encoded != nullptr) ++*encoded;
    return std::vector<std::int32_t>(prompt.begin(), prompt.end());
  };
  return read_prompts(options, config, encode, shard);
}

Prompts read(const InputOptions& options) { return read_input(options, {}).prompts; }

/// A version 1 .npy file.
std::string npy(const std::string& header, const std::string& data) {
  std::string out = "\x93NUMPY";
  out += '\x01';
  out += '\x00';
  out += static_cast<char>(header.size());
  out += '\x00';
  return out + header + data;
}

using Ids = std::vector<std::int32_t>;
using Bounds = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("text prompts come from options, lines and records") {
  const Folder folder;
  CHECK(read({.prompts = {"AB", "[1, 2]"}}).texts[1] == "[1, 2]");
  const Prompts lines = read({.prompts_file = folder.file("p.txt", "AB\r\nC\n")});
  CHECK(lines.input_ids == Ids{65, 66, 67});
  CHECK(lines.cu_seqlens == Bounds{0, 2, 3});
  const Prompts records =
      read({.prompts_file = folder.file("p.jsonl", "{\"text\": \"A\"}\n\n{\"input_ids\": [7, 8]}\n")});
  CHECK(records.input_ids == Ids{65, 7, 8});
  CHECK(records.texts == std::vector<std::string>{"A", ""});
}

TEST_CASE("ids come from json and npy") {
  const Folder folder;
  const Prompts json = read({.input_ids_file = folder.file("i.json", "[[1, 5], [7]]")});
  CHECK(json.input_ids == Ids{1, 5, 7});
  CHECK(json.texts.empty());
  const std::string header = "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }";
  const Prompts matrix =
      read({.input_ids_file = folder.file("i.npy", npy(header, std::string("\1\0\2\0\3\0\4\0\5\0\6\0", 12)))});
  CHECK(matrix.input_ids == Ids{1, 2, 3, 4, 5, 6});
  CHECK(matrix.cu_seqlens == Bounds{0, 3, 6});
}

TEST_CASE("shards are the whole input, one after the other, whatever its kind") {
  const Folder folder;
  const std::vector<InputOptions> kinds = {
      {.prompts = {"A", "BC", "D", "EFG", "H"}},
      {.prompts_file = folder.file("s.jsonl", R"({"text": "A"}
{"input_ids": [7, 8]}

{"input_ids": [9]}
{"text": "BC"}
{"input_ids": [1, 2, 3]}
)")},
      {.input_ids_file = folder.file("s.json", "[[1, 5], [7], [9, 9, 9], [2], [3, 4]]")},
      {.random_tokens = "5x3:8"}};
  for (const InputOptions& options : kinds) {
    const Prompts whole = read(options);
    std::vector<std::string> hashes;
    for (const std::int64_t count : {1, 2, 3, 5}) {
      CAPTURE(count);
      Prompts joined;
      std::int64_t next = 0;
      for (std::int64_t index = 0; index < count; ++index) {
        const Input input = read_input(options, Shard{.index = index, .count = count});
        REQUIRE(input.part.has_value());
        CHECK(input.part->first_prompt == next);
        CHECK(input.part->num_prompts == input.prompts.num_prompts());
        CHECK(input.part->num_prompts - 5 / count <= 1);
        CHECK(input.part->whole_prompts == 5);
        hashes.push_back(input.part->whole_input);
        next += input.part->num_prompts;
        joined.input_ids.insert(joined.input_ids.end(), input.prompts.input_ids.begin(), input.prompts.input_ids.end());
        joined.texts.insert(joined.texts.end(), input.prompts.texts.begin(), input.prompts.texts.end());
      }
      CHECK(next == 5);
      CHECK(joined.input_ids == whole.input_ids);
      CHECK(joined.texts == whole.texts);
    }
    CHECK(std::set(hashes.begin(), hashes.end()).size() == 1);
  }
  int encoded = 0;
  read_input(kinds[0], Shard{.index = 1, .count = 5}, &encoded);
  CHECK(encoded == 1);  // the others' texts are theirs to encode
  const auto hash = [](std::vector<std::string> prompts) {
    return read_input({.prompts = std::move(prompts)}, Shard{.index = 0, .count = 2}).part->whole_input;
  };
  CHECK(hash({"AB", "C"}) != hash({"A", "BC"}));
}

TEST_CASE("a shard that cannot be is refused with what could") {
  for (const char* bad :
       {"", "1", "4/4", "-1/4", "1/0", "1/-2", "a/4", "1/4x", "1 / 4", "/", "0/1000001", "1/99999999999999999999"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(parse_shard(bad), doctest::Contains("--shard: \""), Error);
  }
  CHECK_THROWS_WITH_AS(read_input({.random_tokens = "3x4"}, Shard{.index = 0, .count = 4}),
                       doctest::Contains("--shard 0/4: the input has 3 prompts, which cannot make 4 shards"), Error);
  const Shard last = {.index = kMaxShards - 1, .count = kMaxShards};
  CHECK(last.end(std::int64_t{1} << 62) == std::int64_t{1} << 62);
}

TEST_CASE("random tokens need no file") {
  const Prompts prompts = read({.random_tokens = "3x4:5"});
  CHECK(prompts.num_prompts() == 3);
  CHECK(prompts.input_ids.size() == 12);
  CHECK(prompts.input_ids != read({.random_tokens = "3x4:6"}).input_ids);
  for (const char* bad : {"", "3", "x4", "3x", "0x4", "3x4:", "3x4:a", "-1x4", "3x4x5", "9999999999x9999999999"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(parse_random_shape(bad, "--random-tokens"), doctest::Contains("--random-tokens"), Error);
  }
}

TEST_CASE("random input of terabytes is refused before memory is taken") {
  CHECK(parse_random_shape("1048576x1024", "--random-tokens").num_prompts == 1048576);
  for (const char* bad : {"1x1073741825", "1048576x1025", "9223372036854775807x9223372036854775807"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(parse_random_shape(bad, "--random-hidden-states"),
                         doctest::Contains("is more than 1073741824 tokens, which are the most that are taken"), Error);
  }
}

TEST_CASE("input that cannot be run is refused with its place") {
  const Folder folder;
  const auto refused = [](const InputOptions& options, const char* message) {
    CAPTURE(message);
    CHECK_THROWS_WITH_AS(read(options), doctest::Contains(message), Error);
  };
  refused({.prompts = {"A", ""}}, "--prompt 2: is empty");
  refused({.prompts = {"A", "An"}},
          "--prompt 2: the tokenizer makes the id 110 of it, outside the model's vocabulary of 100");
  refused({.prompts = {"caf\xe9"}}, "--prompt 1: is not UTF-8");
  refused({.prompts_file = folder.file("u.txt", std::string("A\n\xff\xfe\0B", 6))}, "u.txt: line 2: is not UTF-8");
  refused({.prompts_file = folder.file("e.txt", "A\n\nB\n")}, "e.txt: line 2: is empty");
  refused({.prompts_file = folder.file("n.txt", "")}, "n.txt");
  refused({.prompts_file = folder.file("p.csv", "A")}, "is neither .txt nor .jsonl");
  refused({.prompts_file = "/nowhere/p.txt"}, "no such file");
  refused({.prompts_file = folder.file("a.jsonl", "{\"text\": \"A\", \"input_ids\": [1]}")}, "has not exactly one of");
  refused({.prompts_file = folder.file("b.jsonl", "{\"text\": 7}")}, "\"text\" is integer");
  refused({.prompts_file = folder.file("c.jsonl", "{\"text\": ")}, "c.jsonl: line 1: not valid JSON");
  refused({.input_ids_file = folder.file("a.json", "[[1, 100]]")}, "id 100 is outside the vocabulary of 100");
  refused({.input_ids_file = folder.file("b.json", "[[1], [-1]]")}, "prompt 1: id -1 is outside");
  refused({.input_ids_file = folder.file("c.json", "[[]]")}, "prompt 0: is empty");
  refused({.input_ids_file = folder.file("d.json", "[1, 2]")}, "is integer where a list of ids is expected");
  refused({.input_ids_file = folder.file("e.json", "{}")}, "is object");
  refused({.input_ids_file = folder.file("f.json", "[]")}, "holds no prompt");
  refused({.input_ids_file = folder.file("a.npy", "no")}, "shorter than a header");
  refused({.input_ids_file =
               folder.file("b.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }", "1234"))},
          "not little-endian integers");
  refused({.input_ids_file =
               folder.file("c.npy", npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 9), }", "1234"))},
          "is cut off");
  refused({.input_ids_file = folder.file(
               "d.npy", npy("{'descr': '<i4', 'fortran_order': False, 'shape': (4,), }", "1234123412341234"))},
          "is not two-dimensional");
  const std::string sparse =
      folder.file("sparse.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1000000000), }", ""));
  std::filesystem::resize_file(sparse, 2'000'000'200);
  refused({.input_ids_file = sparse}, "is [2, 1000000000]; at most 1073741824 elements are read");
  refused(
      {.input_ids_file = folder.file("e.npy", npy("{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999999, "
                                                  "999999999999999), }",
                                                  "12345678"))},
      "is cut off: it says [999999999999999, 999999999999999] and holds 1 elements");
  refused({.input_ids_file = folder.file("f.npy", std::string("\x93NUMPY\2\0\xff\xff\xff\xff{}", 14))},
          "header of 4294967295 bytes; at most 4096 are read");
  refused({.input_ids_file = folder.file("g.npy", "\x93NUMPY\1\1\xff\1{}")}, "its header is cut off");
  refused({.input_ids_file =
               folder.file("h.npy", npy("{'descr': '<i4', 'fortran_order': True, 'shape': (1, 1), }", "1234"))},
          "is in Fortran order");
  refused({.input_ids_file = folder.file(
               "i.npy", npy("{'descr': '<u8', 'fortran_order': False, 'shape': (1, 1), }", std::string(8, '\xff')))},
          "row 0: id -1 is outside the vocabulary of 100");
  refused({.input_ids_file = folder.file("j.npy", "PK\3\4 and so on")}, "is no .npy file");
}

}  // namespace layerprobe::runtime
