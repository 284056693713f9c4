#include "tokenizer/character_kinds.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace layerprobe::tokenizer {

CharacterKinds kinds_of(const std::vector<CodePointSet>& sets, const std::string& where) {
  std::vector<char32_t> begins = {0};  // of intervals whose characters are all of one kind
  for (const CodePointSet& set : sets) {
    for (const CodePointSet::Range& range : set.ranges()) {
      begins.push_back(range.first);
      if (range.last < kLastCodePoint) begins.push_back(range.last + 1);
    }
  }
  std::sort(begins.begin(), begins.end());
  begins.erase(std::unique(begins.begin(), begins.end()), begins.end());

  std::vector<std::vector<bool>> is_member(begins.size(), std::vector<bool>(sets.size()));
  for (std::size_t s = 0; s < sets.size(); ++s) {
    for (const CodePointSet::Range& range : sets[s].ranges()) {
      const auto first = std::lower_bound(begins.begin(), begins.end(), range.first) - begins.begin();
      for (auto i = static_cast<std::size_t>(first); i < begins.size() && begins[i] <= range.last; ++i) {
        is_member[i][s] = true;
      }
    }
  }

  CharacterKinds kinds;
  kinds.byte_of.resize(kLastCodePoint + 1);
  kinds.members.resize(sets.size());
  std::map<std::vector<bool>, std::uint8_t> byte_of_kind;
  for (std::size_t i = 0; i < begins.size(); ++i) {
    const auto [kind, is_new] = byte_of_kind.try_emplace(is_member[i], static_cast<std::uint8_t>(byte_of_kind.size()));
    if (byte_of_kind.size() > 256) {
      throw Error({.kind = ErrorKind::input,
                   .where = where,
                   .what = "the pattern tells more than 256 kinds of characters apart",
                   .fix = "give token ids (--input-ids) instead of text"});
    }
    for (std::size_t s = 0; is_new && s < sets.size(); ++s) {
      if (is_member[i][s]) kinds.members[s].push_back(static_cast<char>(kind->second));
    }
    const char32_t end = i + 1 < begins.size() ? begins[i + 1] : kLastCodePoint + 1;
    std::fill(kinds.byte_of.begin() + begins[i], kinds.byte_of.begin() + end, kind->second);
  }
  return kinds;
}

}  // namespace layerprobe::tokenizer
