// Source: HDF5 File Format Specification 3.0, II.A (superblock) and IV.A (object headers and their messages).
#include "store/hdf5_objects.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "store/hdf5_heap.h"

namespace layerprobe::store::hdf5 {
namespace {

constexpr unsigned kLinkNameTree = 5, kAttributeNameTree = 8;  // types of B-trees
constexpr std::size_t kMaxAttributes = 10'000;

enum MessageType : unsigned {
  kDataspace = 0x01,
  kLinkInfo = 0x02,
  kDatatype = 0x03,
  kLink = 0x06,
  kExternalFiles = 0x07,
  kLayout = 0x08,
  kFilters = 0x0b,
  kAttribute = 0x0c,
  kContinuation = 0x10,
  kSymbolTable = 0x11,
  kAttributeInfo = 0x15,
};

/// Integers and IEEE floats as HDF5 describes them: precision in bits, sign; exponent's place, size and bias,
/// mantissa's place and size.
struct Described {
  Element element;
  unsigned bits;
  bool is_signed;
  unsigned exponent_at, exponent_bits, mantissa_bits;
  std::uint64_t bias;
};
constexpr std::array<Described, 7> kElements = {{
    {Element::u8, 8, false, 0, 0, 0, 0},
    {Element::i32, 32, true, 0, 0, 0, 0},
    {Element::i64, 64, true, 0, 0, 0, 0},
    {Element::f16, 16, true, 10, 5, 10, 15},
    {Element::bf16, 16, true, 7, 8, 7, 127},
    {Element::f32, 32, true, 23, 8, 23, 127},
    {Element::f64, 64, true, 52, 11, 52, 1023},
}};

ElementType read_type(Fields& fields) {
  constexpr unsigned kInteger = 0, kFloat = 1, kString = 3, kVariable = 9;
  const unsigned head = fields.byte();
  const unsigned kind = head & 15, version = head >> 4;
  if (version < 1 || version > 5) fields.refuse(text("has a type of version ", version, "; 1 to 5 are read"));
  const std::uint64_t bits = fields.integer(3);
  ElementType out;
  out.bytes = fields.integer(4);
  if (out.bytes == 0) fields.refuse("its type has no bytes");
  out.kind = kind == kInteger ? "integer" : kind == kFloat ? "float" : kind == kString ? "string" : out.kind;
  out.is_string = kind == kString;
  out.is_variable = kind == kVariable;
  if (kind != kInteger && kind != kFloat) return out;

  Described found{};
  const std::uint64_t bit_offset = fields.integer(2);
  found.bits = static_cast<unsigned>(fields.integer(2));
  // Little-endian, from the first bit on; of a float the leading one is implied, and the sign is the highest bit.
  bool is_plain = bit_offset == 0 && found.bits == 8 * out.bytes && (bits & 1) == 0;
  if (kind == kInteger) {
    found.is_signed = (bits & 8) != 0;
  } else {
    found.is_signed = true;
    found.exponent_at = fields.byte();
    found.exponent_bits = fields.byte();
    const unsigned mantissa_at = fields.byte();
    found.mantissa_bits = fields.byte();
    found.bias = fields.integer(4);
    is_plain = is_plain && (bits & 0x40) == 0 && (bits >> 4 & 3) == 2 && (bits >> 8 & 255) == found.bits - 1 &&
               mantissa_at == 0;
  }
  for (const Described& each : kElements) {
    const bool same = each.bits == found.bits && each.is_signed == found.is_signed &&
                      each.exponent_at == found.exponent_at && each.exponent_bits == found.exponent_bits &&
                      each.mantissa_bits == found.mantissa_bits && each.bias == found.bias;
    if (is_plain && same) out.element = each.element;
  }
  return out;
}

Extents read_extents(Fields& fields) {
  constexpr unsigned kNull = 2;
  fields.expect_version(2, "dataspace");
  const unsigned rank = fields.byte();
  fields.skip(1);  // whether maximal sizes follow
  Extents out;
  out.is_null = fields.byte() == kNull;
  for (unsigned axis = 0; axis < rank; ++axis) out.shape.push_back(fields.integer(8));
  return out;
}

/// A link's name and what it leads to.
std::pair<std::string, LinkMessage> read_link(Fields fields) {
  fields.expect_version(1, "link");
  const unsigned flags = fields.byte();
  const unsigned kind = (flags & 8) != 0 ? fields.byte() : 0;
  if ((flags & 4) != 0) fields.skip(8);   // its place in the order of creation
  if ((flags & 16) != 0) fields.skip(1);  // character set
  std::string name = fields.text(fields.integer(std::size_t{1} << (flags & 3)));
  LinkMessage link{.is_hard = kind == 0};
  if (link.is_hard) link.address = fields.address();
  return {std::move(name), link};
}

AttributeMessage read_attribute(Fields fields) {
  fields.expect_version(3, "attribute");
  if (fields.byte() != 0) fields.refuse("has an attribute whose type is shared, which is not read");
  const std::uint64_t name_bytes = fields.integer(2), type_bytes = fields.integer(2), space_bytes = fields.integer(2);
  fields.skip(1);  // character set
  AttributeMessage out;
  out.name = fields.text(name_bytes);
  out.name = out.name.substr(0, out.name.find('\0'));
  Fields type(fields.text(type_bytes), fields.where() + ": attribute " + out.name);
  out.type = read_type(type);
  Fields space(fields.text(space_bytes), type.where());
  out.extents = read_extents(space);
  out.value = fields.text(fields.left());
  return out;
}

/// Reads one object's messages, wherever they are kept.
class ObjectReader {
 public:
  ObjectReader(Blocks& blocks, bool with_attributes) : blocks_(blocks), with_attributes_(with_attributes) {}

  Object read(std::uint64_t address) {
    Fields prefix = blocks_.peek(address, 40, "object header");
    if (prefix.text(4) != "OHDR") {
      Fields({}, blocks_.where("object header", address)).refuse("is not there, or of an older version than 2");
    }
    prefix.expect_version(2, "object header");
    const unsigned flags = prefix.byte();
    const std::size_t skipped = ((flags & 0x20) != 0 ? 16 : 0) + ((flags & 0x10) != 0 ? 4 : 0);  // times, limits
    prefix.skip(skipped);
    const std::size_t size_bytes = std::size_t{1} << (flags & 3);
    const std::uint64_t messages_bytes = prefix.integer(size_bytes);
    message_header_bytes_ = (flags & 4) != 0 ? 6 : 4;
    if (messages_bytes > blocks_.file_bytes()) prefix.refuse(text("of ", messages_bytes, " bytes"));
    const std::size_t prefix_bytes = 6 + skipped + size_bytes;
    Fields first = blocks_.block(address, prefix_bytes + messages_bytes + 4, "OHDR", "object header");
    first.skip(prefix_bytes - 4);
    read_messages(first);
    while (!continuations_.empty()) {
      const auto [at, bytes] = continuations_.back();
      continuations_.pop_back();
      Fields more = blocks_.block(at, bytes, "OCHK", "object header");
      read_messages(more);
    }
    return std::move(object_);
  }

 private:
  void read_messages(Fields& fields) {
    while (fields.left() >= message_header_bytes_) {
      const unsigned type = fields.byte();
      const std::uint64_t bytes = fields.integer(2);
      const unsigned flags = fields.byte();
      fields.skip(message_header_bytes_ - 4);
      Fields message(fields.text(bytes), fields.where());
      constexpr unsigned kShared = 2;
      if ((flags & kShared) != 0 && type != 0) fields.refuse("has a message that is shared, which is not read");
      read_message(type, message);
    }
  }

  void read_message(unsigned type, Fields& message) {
    switch (type) {
      case kDataspace:
        object_.extents = read_extents(message);
        break;
      case kDatatype:
        object_.type = read_type(message);
        break;
      case kLink:
        add_link(message);
        break;
      case kLinkInfo:
        read_link_info(message);
        break;
      case kExternalFiles:
        object_.is_external = true;
        break;
      case kFilters:
        object_.is_filtered = true;
        break;
      case kLayout:
        read_layout(message);
        break;
      case kAttribute:
        if (with_attributes_) add_attribute(message);
        break;
      case kAttributeInfo:
        if (with_attributes_) read_attribute_info(message);
        break;
      case kContinuation: {
        const std::uint64_t address = message.address(), bytes = message.integer(8);
        continuations_.emplace_back(address, bytes);
        break;
      }
      case kSymbolTable:
        message.refuse("is a group of an older version of HDF5, which is not read");
      default:  // times, comments, fill values, ...: nothing that says where values are
        break;
    }
  }

  void add_link(Fields message) {
    if (!object_.links) object_.links.emplace();
    auto [name, link] = read_link(std::move(message));
    object_.links->insert_or_assign(std::move(name), link);
  }

  void add_attribute(Fields message) {
    if (object_.attributes.size() == kMaxAttributes) {
      message.refuse(text("has more than ", kMaxAttributes, " attributes, which are the most that are read"));
    }
    object_.attributes.push_back(read_attribute(std::move(message)));
  }

  void read_link_info(Fields& message) {
    if (!object_.links) object_.links.emplace();
    message.expect_version(0, "link info");
    if ((message.byte() & 1) != 0) message.skip(8);  // the next link's place in the order of creation
    const std::uint64_t heap = message.address(), tree = message.address();
    if (heap == kNowhere) return;
    FractalHeap links(blocks_, heap);
    for (const std::string& record : records_of_tree(blocks_, tree, kLinkNameTree)) {
      constexpr std::size_t kHashBytes = 4;
      if (record.size() <= kHashBytes) message.refuse("has links without a place");
      add_link(links.object(std::string_view(record).substr(kHashBytes)));
    }
  }

  void read_attribute_info(Fields& message) {
    message.expect_version(0, "attribute info");
    if ((message.byte() & 1) != 0) message.skip(2);  // the next attribute's place in the order of creation
    const std::uint64_t heap = message.address(), tree = message.address();
    if (heap == kNowhere) return;
    FractalHeap attributes(blocks_, heap);
    for (const std::string& record : records_of_tree(blocks_, tree, kAttributeNameTree)) {
      constexpr std::size_t kBehindId = 1 + 4 + 4;  // flags, place in the order of creation, hash
      if (record.size() <= kBehindId) message.refuse("has attributes without a place");
      if (record[record.size() - kBehindId] != 0) message.refuse("has an attribute that is shared, which is not read");
      add_attribute(attributes.object(std::string_view(record).substr(0, record.size() - kBehindId)));
    }
  }

  void read_layout(Fields& message) {
    constexpr unsigned kContiguous = 1;
    if (const unsigned version = message.byte(); version != 3 && version != 4) {
      message.refuse(text("has a layout of version ", version, "; 3 and 4 are read"));
    }
    object_.has_layout = true;
    object_.is_contiguous = message.byte() == kContiguous;
    if (!object_.is_contiguous) return;
    object_.address = message.address();
    object_.bytes = message.integer(8);
  }

  Blocks& blocks_;
  bool with_attributes_;
  std::size_t message_header_bytes_ = 4;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> continuations_;  // address and bytes
  Object object_;
};

}  // namespace

std::string ElementType::description() const {
  if (element) return name_of(*element);
  return text(kind, " of ", bytes, " bytes");
}

std::uint64_t root_address(Blocks& blocks) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  const auto refuse = [&](std::string what, const char* fix) {
    return Error(
        {.kind = ErrorKind::input, .where = blocks.file().path().string(), .what = std::move(what), .fix = fix});
  };
  constexpr const char* kNameOne = "name a whole HDF5 file, as layerprobe or scripts/capture_hf.py writes it";
  Fields head = blocks.peek(0, 9, "superblock");
  if (head.left() < 9 || head.text(8) != kSignature)
    throw refuse("is no HDF5 file: its first bytes are others", kNameOne);
  if (const unsigned version = head.byte(); version != 2 && version != 3) {
    throw refuse(text("has a superblock of version ", version, "; 2 and 3 are read (HDF5's bounds v108 and v110)"),
                 "rewrite it: h5repack --low=1 --high=2 OLD.h5 NEW.h5");
  }
  Fields fields = blocks.block(0, 48, kSignature, "superblock");
  fields.skip(1);
  if (const std::uint64_t offsets = fields.byte(), lengths = fields.byte(); offsets != 8 || lengths != 8) {
    fields.refuse(text("has addresses of ", offsets, " bytes and lengths of ", lengths, "; 8 and 8 are read"));
  }
  fields.skip(1);  // whether a writer has it open
  if (const std::uint64_t base = fields.address(); base != 0) fields.refuse(text("has a base address of ", base));
  fields.skip(8);  // the superblock's extension: nothing in it moves what we read
  if (const std::uint64_t end = fields.address(); end > blocks.file_bytes()) {
    throw refuse(text("is cut off: ", blocks.file_bytes(), " bytes of ", end), "fetch or make it again");
  }
  return fields.address();
}

Object object_at(Blocks& blocks, std::uint64_t address, bool with_attributes) {
  return ObjectReader(blocks, with_attributes).read(address);
}

}  // namespace layerprobe::store::hdf5
