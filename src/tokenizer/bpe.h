#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace layerprobe::tokenizer {

/// A byte-level BPE model: pieces of text to ids. Any thread.
class Bpe {
 public:
  struct Model {
    std::vector<std::pair<std::string, std::int32_t>> vocabulary =
        {};                                                        // tokens as the file has them, one for each byte
    std::vector<std::pair<std::string, std::string>> merges = {};  // the first has the lowest rank
    std::optional<std::string> unk_token = {};                     // for a byte without a token; else it is left out
    bool fuse_unk = false;                                         // one unk_token for a run of such bytes
    bool ignore_merges = false;  // a piece that is a token becomes it, whatever the merges
  };
  /// Throws Error(input), with `where`, when a merge makes or takes what is no token, a token stands twice, or an id is
  /// negative.
  Bpe(const Model& model, const std::string& where);

  /// Appends the ids of a piece: of adjacent tokens the pair of the lowest rank is merged, the leftmost of equals,
  /// until no pair has a rank. n log n in the bytes of the piece.
  void append_ids(std::string_view piece, std::vector<std::int32_t>& ids) const;

 private:
  struct Merge {
    std::uint32_t rank;
    std::int32_t id;  // of the merged token
  };
  /// Pairs of ids to merges, with open addressing: several look-ups a byte make this the hottest spot.
  class MergeTable {
   public:
    explicit MergeTable(std::size_t max_size);
    void set(std::int32_t left, std::int32_t right, Merge merge);
    const Merge* find(std::int32_t left, std::int32_t right) const;

   private:
    struct Slot {
      std::uint64_t pair = kFree;
      Merge merge{};
    };
    static constexpr std::uint64_t kFree = ~std::uint64_t{0};  // ids are not negative
    std::size_t first_slot(std::uint64_t pair) const;
    std::vector<Slot> slots_;  // a power of two of them, at most half in use
  };

  std::array<std::int32_t, 256> id_of_byte_;                   // -1: none
  std::unordered_map<std::string, std::int32_t> id_of_piece_;  // by bytes; only where merges are ignored
  MergeTable merges_;
  std::int32_t unk_id_ = -1;
  bool fuse_unk_;
};

}  // namespace layerprobe::tokenizer
