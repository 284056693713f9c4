#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "store/hdf5_blocks.h"

namespace layerprobe::store::hdf5 {

/// All records of a version 2 B-tree, of that type, in their order. Source: HDF5 File Format Specification 3.0,
/// III.A.2.
std::vector<std::string> records_of_tree(Blocks& blocks, std::uint64_t address, unsigned type);

/// A fractal heap: where a group keeps its links, or an object its attributes, once they are many. Without filters, as
/// HDF5 itself makes them. Source: the same, III.G.
class FractalHeap {
 public:
  FractalHeap(Blocks& blocks, std::uint64_t address);

  /// The object of that heap ID. Throws Error(input) for an ID that leads nowhere.
  Fields object(std::string_view id);

 private:
  struct Place {
    std::uint64_t address, bytes;
  };
  std::string managed(std::uint64_t offset, std::uint64_t bytes);
  std::string huge(std::uint64_t id);
  /// The direct block that holds the heap's byte `offset`, which becomes an offset into the block.
  Place direct_block_of(std::uint64_t& offset);
  std::uint64_t child_of(std::uint64_t address, std::uint64_t num_rows, std::uint64_t child);

  Blocks& blocks_;
  std::string where_;
  unsigned flags_ = 0;
  std::size_t id_bytes_ = 0;
  std::uint64_t max_managed_bytes_ = 0;
  std::uint64_t huge_tree_ = kNowhere;
  std::uint64_t width_ = 0, first_block_bytes_ = 0, max_direct_bytes_ = 0;
  std::size_t offset_bytes_ = 0;
  std::uint64_t root_ = kNowhere, root_rows_ = 0;
  std::map<std::uint64_t, std::string> direct_;                   // by address
  std::map<std::uint64_t, std::vector<std::uint64_t>> indirect_;  // by address: those of the children
  std::map<std::uint64_t, Place> huge_;                           // by ID
};

}  // namespace layerprobe::store::hdf5
