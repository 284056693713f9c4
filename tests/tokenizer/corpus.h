#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace layerprobe::test {

/// tests/tokenizer/data, and a name in it.
std::string tokenizer_data(const std::string& name);

/// The texts of tests/tokenizer/data/corpus.txt: 2,400 in some 40 scripts, made by scripts/make_tokenizer_corpus.py.
const std::vector<std::string>& corpus();

/// Checks that `tokenizer` gives each text of the corpus the ids that the `tokenizers` package gave, as
/// scripts/make_tokenizer_reference.py wrote them into <name>.ids.
void check_corpus(const tokenizer::Tokenizer& tokenizer, const std::string& name);

}  // namespace layerprobe::test
