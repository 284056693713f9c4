#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer/code_point_set.h"

namespace layerprobe::tokenizer {

/// A byte for each kind of character that some sets tell apart.
struct CharacterKinds {
  std::vector<std::uint8_t> byte_of;  // [kLastCodePoint + 1]
  std::vector<std::string> members;   // the bytes of each set
};

/// Throws Error(input), with `where`, when there are more than 256 kinds.
CharacterKinds kinds_of(const std::vector<CodePointSet>& sets, const std::string& where);

}  // namespace layerprobe::tokenizer
