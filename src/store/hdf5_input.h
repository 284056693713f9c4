#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "store/contents.h"
#include "store/hdf5.h"

namespace layerprobe::store::hdf5 {

/// A dataset found in a file: contiguous, without filter, all of its bytes inside the file.
struct Found {
  std::string path;
  std::vector<std::int64_t> shape;  // at most two axes
  Type type;                        // never of variable length
  std::size_t element_bytes = 0;
  Extent extent;
};

/// Opens a file from a stranger and hands out what can be trusted about it. HDF5 reads metadata only: no link but hard
/// ones is followed, nothing is read through a filter, and the values come by pread. All errors are Error(input).
class Input {
 public:
  explicit Input(const layerprobe::File& file);

  /// Every attribute of "/".
  Attributes attributes() const;
  bool has_group(const std::string& path) const;
  /// How many links a group has.
  std::uint64_t num_links(const std::string& group) const;
  /// `group` is absolute and exists, `name` is one link in it.
  std::optional<Found> find(const std::string& group, const std::string& name);
  Found dataset(const std::string& group, const std::string& name);  // throws when there is none
  /// Throws unless no two of the datasets handed out share a byte.
  void expect_apart() const;

  void expect_element(const Found& found, Element element) const;
  void expect_shape(const Found& found, std::span<const std::int64_t> shape) const;

  /// All values of a dataset of that type and one axis (`num_axes` 2: two).
  std::vector<std::uint8_t> read_u8(const Found& found) const { return read<std::uint8_t>(found, Element::u8); }
  std::vector<std::int32_t> read_i32(const Found& found) const { return read<std::int32_t>(found, Element::i32); }
  std::vector<std::int64_t> read_i64(const Found& found) const { return read<std::int64_t>(found, Element::i64); }
  /// Fixed-length strings, each without its padding.
  std::vector<std::string> read_strings(const Found& found) const;

  /// "<file>: <path>"
  std::string where(const std::string& path) const;
  [[noreturn]] void refuse(const std::string& path, std::string what, const char* fix = nullptr) const;

 private:
  template <typename T>
  std::vector<T> read(const Found& found, Element element) const;
  hid_t checked(hid_t result, const std::string& path) const;
  void expect_hard_link(hid_t parent, const std::string& name, const std::string& path) const;
  layerprobe::store::Attribute attribute(const std::string& name) const;

  const layerprobe::File& file_;
  std::uint64_t file_bytes_;
  File handle_;
  struct Taken {
    std::uint64_t begin, end;
    std::string path;
  };
  std::vector<Taken> taken_;
};

}  // namespace layerprobe::store::hdf5
