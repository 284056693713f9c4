#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace layerprobe::fuzz {

/// A piece of HDF5's metadata that ends with, or holds, a checksum of itself. Source: HDF5 File Format
/// Specification 3.0.
struct Hdf5Block {
  std::size_t begin = 0;
  std::size_t end = 0;          // of what the checksum covers; its own four bytes, where inside, count as zeros
  std::size_t checksum_at = 0;  // of the checksum, four bytes
};

/// The blocks of a file whose checksums are right: superblock, object headers and their continuations, fractal heaps
/// and version 2 B-trees, as a file with HDF5's bounds V18 to V110 has them.
std::vector<Hdf5Block> hdf5_blocks_of(std::string_view file);

/// Makes the block's checksum right again.
void set_checksum(std::string& file, const Hdf5Block& block);

}  // namespace layerprobe::fuzz
