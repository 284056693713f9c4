#include "tokenizer/bpe.h"

#include <bit>
#include <queue>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {
namespace {

/// A token of a piece, in a doubly linked list over positions.
struct Symbol {
  std::int32_t id;
  std::int32_t previous, next;  // -1: none
  bool merged_away = false;
};

/// A pair that may be merged: the symbol at `position` and its next. Stale once either has changed.
struct Candidate {
  std::uint32_t rank;
  std::int32_t position;
  std::int32_t id;

  /// For a queue whose top is the lowest rank, then the leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

Bpe::MergeTable::MergeTable(std::size_t max_size) : slots_(std::bit_ceil(2 * max_size + 2)) {}

std::size_t Bpe::MergeTable::first_slot(std::uint64_t pair) const {
  return static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15u) >> 32) & (slots_.size() - 1);  // 2^64 / golden ratio
}

void Bpe::MergeTable::set(std::int32_t left, std::int32_t right, Merge merge) {
  const std::uint64_t pair = static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  std::size_t slot = first_slot(pair);
  while (slots_[slot].pair != kFree && slots_[slot].pair != pair) slot = (slot + 1) & (slots_.size() - 1);
  slots_[slot] = {pair, merge};
}

const Bpe::Merge* Bpe::MergeTable::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  std::size_t slot = first_slot(pair);
  for (; slots_[slot].pair != kFree; slot = (slot + 1) & (slots_.size() - 1)) {
    if (slots_[slot].pair == pair) return &slots_[slot].merge;
  }
  return nullptr;
}

Bpe::Bpe(const Model& model, const std::string& where) : merges_(model.merges.size()), fuse_unk_(model.fuse_unk) {
  const auto refused = [&](std::string what) {
    return Error({.kind = ErrorKind::input,
                  .where = where,
                  .what = std::move(what),
                  .fix = "the vocabulary is damaged; fetch the model again"});
  };
  std::unordered_map<std::string_view, std::int32_t> id_of;
  id_of.reserve(model.vocabulary.size());
  for (const auto& [token, id] : model.vocabulary) {
    if (id < 0) throw refused(text("the token \"", token, "\" has the id ", id));
    if (!id_of.emplace(token, id).second) throw refused(text("the token \"", token, "\" stands twice"));
  }
  const auto find = [&](const std::string& token) {
    const auto found = id_of.find(token);
    if (found == id_of.end()) throw refused(text("a merge needs the token \"", token, "\", which is not there"));
    return found->second;
  };

  for (std::size_t byte = 0; byte < id_of_byte_.size(); ++byte) {
    std::string token;
    append_utf8(character_of(static_cast<std::uint8_t>(byte)), token);
    const auto found = id_of.find(token);
    id_of_byte_[byte] = found == id_of.end() ? -1 : found->second;
  }
  if (model.unk_token) unk_id_ = find(*model.unk_token);
  for (std::size_t rank = 0; rank < model.merges.size(); ++rank) {
    const auto& [left, right] = model.merges[rank];
    const std::int32_t left_id = find(left);
    const std::int32_t right_id = find(right);
    merges_.set(left_id, right_id, {.rank = static_cast<std::uint32_t>(rank), .id = find(left + right)});
  }
  if (!model.ignore_merges) return;
  for (const auto& [token, id] : model.vocabulary) {
    if (std::optional<std::string> bytes = bytes_of(token)) id_of_piece_.emplace(std::move(*bytes), id);
  }
}

void Bpe::append_ids(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (!id_of_piece_.empty()) {
    if (const auto found = id_of_piece_.find(std::string(piece)); found != id_of_piece_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  bool after_unk = false;
  for (const char byte : piece) {
    const std::int32_t id = id_of_byte_[static_cast<std::uint8_t>(byte)];
    const bool is_unk = id < 0;
    if (!is_unk || (unk_id_ >= 0 && !(after_unk && fuse_unk_))) {
      const auto position = static_cast<std::int32_t>(symbols.size());
      symbols.push_back({.id = is_unk ? unk_id_ : id, .previous = position - 1, .next = position + 1});
    }
    after_unk = is_unk;
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  std::vector<Candidate> storage;
  storage.reserve(symbols.size());
  std::priority_queue<Candidate> candidates({}, std::move(storage));
  const auto consider = [&](std::int32_t position) {
    const Symbol& left = symbols[static_cast<std::size_t>(position)];
    if (left.next < 0) return;
    const Merge* merge = merges_.find(left.id, symbols[static_cast<std::size_t>(left.next)].id);
    if (merge != nullptr) candidates.push({.rank = merge->rank, .position = position, .id = merge->id});
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<std::int32_t>(i));

  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[static_cast<std::size_t>(best.position)];
    if (left.merged_away || left.next < 0) continue;
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    const Merge* merge = merges_.find(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;  // stale
    left.id = best.id;
    left.next = right.next;
    right.merged_away = true;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = best.position;
    if (left.previous >= 0) consider(left.previous);
    consider(best.position);
  }
  for (std::int32_t i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].next) {
    ids.push_back(symbols[static_cast<std::size_t>(i)].id);
  }
}

}  // namespace layerprobe::tokenizer
