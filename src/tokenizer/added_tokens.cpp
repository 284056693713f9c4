#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), nodes_(1) {
  // In order of their contents, so that a node's children only ever grow at the end.
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  for (std::size_t t = 0; t < tokens_.size(); ++t) {
    std::size_t at = 0;
    for (const char32_t c : tokens_[t].content) {
      const Node* known = child(nodes_[at], c);
      if (known != nullptr) {
        at = static_cast<std::size_t>(known - nodes_.data());
        continue;
      }
      auto& next = nodes_[at].next;
      const auto after = std::lower_bound(next.begin(), next.end(), std::pair{c, std::uint32_t{0}});
      next.insert(after, {c, static_cast<std::uint32_t>(nodes_.size())});
      at = nodes_.size();
      nodes_.emplace_back();
    }
    nodes_[at].token = static_cast<std::int32_t>(t);
  }
}

const AddedTokens::Node* AddedTokens::child(const Node& node, char32_t c) const {
  const auto found = std::lower_bound(node.next.begin(), node.next.end(), std::pair{c, std::uint32_t{0}});
  return found != node.next.end() && found->first == c ? &nodes_[found->second] : nullptr;
}

std::vector<AddedTokens::Segment> AddedTokens::segments_of(std::u32string_view text) const {
  const auto is_word = [&](std::size_t i) { return added_token_word_characters().contains(text[i]); };
  std::vector<Segment> segments;
  std::size_t done = 0;  // what lies before is in `segments`
  std::size_t at = 0;
  std::size_t space_end = 0;  // the end of the white space that rstrip looked at last
  while (at < text.size()) {
    std::int32_t longest = -1;
    const Node* node = &nodes_[0];
    for (std::size_t i = at; i < text.size() && (node = child(*node, text[i])) != nullptr; ++i) {
      if (node->token >= 0) longest = node->token;
    }
    if (longest < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(longest)];
    std::size_t begin = at;
    std::size_t end = at + token.content.size();
    at = end;  // also where it turns out to be no single word, as in `tokenizers`
    if (token.single_word && ((begin > 0 && is_word(begin - 1)) || (end < text.size() && is_word(end)))) continue;
    if (token.lstrip) {
      while (begin > done && white_space().contains(text[begin - 1])) --begin;
    }
    if (token.rstrip) {
      end = std::max(end, space_end);
      while (end < text.size() && white_space().contains(text[end])) ++end;
      space_end = end;
    }
    if (done < begin) segments.push_back({text.substr(done, begin - done), kNone});
    segments.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) segments.push_back({text.substr(done), kNone});
  return segments;
}

}  // namespace layerprobe::tokenizer
