#include "tests/tokenizer/corpus.h"

#include <doctest/doctest.h>

#include <charconv>

#include "base/file.h"
#include "base/text.h"
#include "tests/support/places.h"

namespace layerprobe::test {
namespace {

std::string unescaped(std::string_view line) {
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] != '\\') {
      out.push_back(line[i]);
      continue;
    }
    const char escape = line[++i];
    if (escape == 'x') {
      unsigned byte = 0;
      std::from_chars(&line[i + 1], &line[i + 3], byte, 16);
      out.push_back(static_cast<char>(byte));
      i += 2;
    } else {
      out.push_back(escape == 'n' ? '\n' : escape == 'r' ? '\r' : escape == 't' ? '\t' : escape);
    }
  }
  return out;
}

std::uint32_t fnv1a(const std::vector<std::int32_t>& ids) {
  std::uint32_t hash = 0x811C9DC5;
  for (const std::int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ (static_cast<std::uint32_t>(id) >> shift & 0xFF)) * 0x01000193;
    }
  }
  return hash;
}

std::vector<std::string> lines_of(const std::string& name) {
  std::vector<std::string> lines = split(read_text_file(tokenizer_data(name)), '\n');
  lines.pop_back();
  return lines;
}

}  // namespace

std::string tokenizer_data(const std::string& name) { return test::root_folder() / "tests/tokenizer/data" / name; }

const std::vector<std::string>& corpus() {
  static const std::vector<std::string> texts = [] {
    std::vector<std::string> out;
    for (const std::string& line : lines_of("corpus.txt")) out.push_back(unescaped(line));
    return out;
  }();
  return texts;
}

void check_corpus(const tokenizer::Tokenizer& tokenizer, const std::string& name) {
  const std::vector<std::string> expected = lines_of(name + ".ids");
  REQUIRE(expected.size() == corpus().size());
  int differing = 0;
  for (std::size_t i = 0; i < expected.size() && differing < 10; ++i) {
    const std::vector<std::string> words = split(expected[i], ' ');  // the hash, and in some lines the ids
    const std::vector<std::int32_t> ids = tokenizer.encode(corpus()[i]);
    std::uint32_t hash = 0;
    std::from_chars(words[0].data(), words[0].data() + words[0].size(), hash, 16);
    CAPTURE(name);
    CAPTURE(corpus()[i]);
    CAPTURE(i);
    if (words.size() > 1) {
      std::string printed = words[0];
      for (const std::int32_t id : ids) printed += text(" ", id);
      CHECK(printed == expected[i]);
    }
    CHECK(fnv1a(ids) == hash);
    differing += fnv1a(ids) != hash;
  }
}

}  // namespace layerprobe::test
