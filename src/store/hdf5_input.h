#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "store/contents.h"
#include "store/hdf5_blocks.h"
#include "store/hdf5_objects.h"

namespace layerprobe::store::hdf5 {

/// A dataset found in a file: contiguous, without filter, all of its bytes inside the file.
struct Found {
  std::string path;
  std::vector<std::int64_t> shape;  // at most two axes
  ElementType type;                 // never of variable length
  Extent extent;
};

/// Opens a file from a stranger and hands out what can be trusted about it. The HDF5 library has no part in it: with
/// damaged metadata whose checksums are right it crashes (docs/reliability.md). No link but hard ones is followed,
/// nothing is read through a filter. All errors are Error(input).
class Input {
 public:
  explicit Input(const layerprobe::File& file);

  /// Every attribute of "/".
  Attributes attributes() const;
  bool has_group(const std::string& path) { return find_group(path) != nullptr; }
  /// How many links a group has, that exists.
  std::uint64_t num_links(const std::string& group);
  /// `group` is absolute and exists, `name` is one link in it.
  std::optional<Found> find(const std::string& group, const std::string& name);
  Found dataset(const std::string& group, const std::string& name);  // throws when there is none
  /// Throws unless no two of the datasets handed out share a byte.
  void expect_apart() const;

  void expect_element(const Found& found, Element element) const;
  void expect_shape(const Found& found, std::span<const std::int64_t> shape) const;

  /// All values of a dataset of that type.
  std::vector<std::uint8_t> read_u8(const Found& found) const { return read<std::uint8_t>(found, Element::u8); }
  std::vector<std::int32_t> read_i32(const Found& found) const { return read<std::int32_t>(found, Element::i32); }
  std::vector<std::int64_t> read_i64(const Found& found) const { return read<std::int64_t>(found, Element::i64); }
  /// Fixed-length strings, each without its padding.
  std::vector<std::string> read_strings(const Found& found) const;

  /// "<file>: <path>"
  std::string where(const std::string& path) const;
  [[noreturn]] void refuse(const std::string& path, std::string what, const char* fix = nullptr) const;

 private:
  using Links = std::map<std::string, LinkMessage>;
  const Links* find_group(const std::string& path);
  const Links& group(const std::string& path);
  /// The object that `link` leads to; throws unless it is a hard link.
  Object object_of(const LinkMessage& link, const std::string& path);
  template <typename T>
  std::vector<T> read(const Found& found, Element element) const;
  layerprobe::store::Attribute value_of(const AttributeMessage& attribute) const;

  const layerprobe::File& file_;
  Blocks blocks_;
  Object root_;
  std::map<std::string, Links> groups_;  // by path: those that were looked into
  struct Taken {
    std::uint64_t begin, end;
    std::string path;
  };
  std::vector<Taken> taken_;
};

}  // namespace layerprobe::store::hdf5
