#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace layerprobe::tokenizer {

/// A token that is found in the text before anything else is done to it ("<|im_start|>").
struct AddedToken {
  std::u32string content;
  std::int32_t id;
  bool single_word = false;  // matches only where no word character stands beside it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // takes the white space after it along
};

/// Finds added tokens in text: the leftmost, and of those the longest.
class AddedTokens {
 public:
  static constexpr std::int32_t kNone = -1;

  /// Contents are not empty. The last of two with the same content counts.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  struct Segment {
    std::u32string_view text;  // of the text given
    std::int32_t id;           // kNone: no added token, not empty
  };
  /// The text cut at the tokens, in order.
  std::vector<Segment> segments_of(std::u32string_view text) const;

 private:
  struct Node {
    std::vector<std::pair<char32_t, std::uint32_t>> next;  // by character; the index of a node
    std::int32_t token = -1;                               // the one that ends here
  };
  const Node* child(const Node& node, char32_t c) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;  // a trie; the root is nodes_[0]
};

}  // namespace layerprobe::tokenizer
