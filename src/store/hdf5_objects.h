#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "store/hdf5_blocks.h"
#include "store/hdf5_element.h"

namespace layerprobe::store::hdf5 {

/// What one element is, as a file says it.
struct ElementType {
  std::optional<Element> element;     // one of ours
  bool is_string = false;             // of fixed length
  bool is_variable = false;           // of variable length, which is not read
  const char* kind = "another kind";  // "integer", "float", "string"
  std::uint64_t bytes = 0;            // never 0

  /// "i64", "string of 8 bytes", "integer of 2 bytes", ...: for messages.
  std::string description() const;
};

/// A scalar has no axis.
struct Extents {
  bool is_null = false;  // no elements at all
  std::vector<std::uint64_t> shape;
};

/// An attribute and where its value begins: after type and extents, in the message.
struct AttributeMessage {
  std::string name;
  ElementType type;
  Extents extents;
  std::string value;
};

struct LinkMessage {
  bool is_hard = false;
  std::uint64_t address = kNowhere;  // of the object
};

/// What an object's header says, of all that we read. An object with a `links` is a group, one with a layout a dataset.
struct Object {
  std::optional<std::map<std::string, LinkMessage>> links;
  std::vector<AttributeMessage> attributes;
  std::optional<ElementType> type;
  std::optional<Extents> extents;
  bool has_layout = false, is_contiguous = false, is_external = false, is_filtered = false;
  std::uint64_t address = kNowhere, bytes = 0;  // of the values
};

/// The address of the root group, of a file with superblock 2 or 3. Throws Error(input) for older ones, and for a file
/// that is shorter than it says.
std::uint64_t root_address(Blocks& blocks);

/// The object whose header (version 2) is at `address`; with its attributes where `with_attributes`. Throws
/// Error(input) for what is damaged, or has messages that are shared between objects.
Object object_at(Blocks& blocks, std::uint64_t address, bool with_attributes);

}  // namespace layerprobe::store::hdf5
