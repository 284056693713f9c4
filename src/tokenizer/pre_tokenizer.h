#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tokenizer/pattern.h"

namespace layerprobe::tokenizer {

/// What becomes of the matches of a splitter, and of the gaps between them.
enum class SplitBehavior {
  isolated,              // each match and each gap is a piece
  removed,               // each gap is a piece, matches are dropped
  merged_with_previous,  // a match belongs to the gap before it
  merged_with_next,      // a match belongs to the gap after it
  contiguous,            // as isolated, but matches that touch are one piece
};

/// The splitters of `tokenizers`, in its words.
struct Split {
  Pattern pattern;
  SplitBehavior behavior;
  bool invert;  // gaps and matches change places
};
struct Digits {
  bool individual_digits;
};
struct PrefixSpace {};  // ByteLevel's add_prefix_space: each piece begins with a space
using Splitter = std::variant<Split, Digits, PrefixSpace>;

/// The pattern of GPT-2, which ByteLevel uses.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// A pattern that matches exactly `text`.
std::string literal_pattern(std::string_view text);

/// Cuts text into the pieces that BPE works on: each splitter cuts every piece that the one before has left.
class PreTokenizer {
 public:
  explicit PreTokenizer(std::vector<Splitter> splitters) : splitters_(std::move(splitters)) {}

  struct Piece {
    std::size_t begin, end;  // never equal
  };
  struct Pieces {
    std::u32string text;
    std::vector<Piece> pieces;  // of `text`, in order
  };
  Pieces pieces_of(std::u32string_view text, PatternRun& run) const;

 private:
  std::vector<Splitter> splitters_;
};

}  // namespace layerprobe::tokenizer
