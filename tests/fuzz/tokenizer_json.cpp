#include "tests/fuzz/targets.h"
#include "tests/support/temp_folder.h"
#include "tokenizer/tokenizer.h"

namespace layerprobe::fuzz {

void tokenizer_json(std::string_view bytes) {
  static const test::TempFolder folder;
  folder.write("tokenizer.json", bytes);
  expect_answer([] {
    const auto tokenizer = tokenizer::Tokenizer::from_folder(folder.path());
    tokenizer.decode(tokenizer.encode("aba  b1 12\n\n<s>\t ab's e\xcc\x81 \xe6\xbc\xa2\xff"));
    tokenizer.token_text(3);
  });
}

}  // namespace layerprobe::fuzz
