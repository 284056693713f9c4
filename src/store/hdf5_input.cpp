#include "store/hdf5_input.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::store::hdf5 {
namespace {

constexpr const char* kDamaged = "the file is damaged, or no file of layerprobe's; make or fetch it again";
constexpr const char* kRepack = "rewrite it: h5repack -l CONTI -f NONE --low=1 --high=2 OLD.h5 NEW.h5";
constexpr const char* kFixedLength =
    "write it as store/format.h says, with types of fixed length (h5py: numpy.bytes_ for a string)";

/// `bytes` up to the first NUL.
std::string unpadded(std::string_view bytes) { return std::string(bytes.substr(0, bytes.find('\0'))); }

}  // namespace

Input::Input(const layerprobe::File& file) : file_(file), blocks_(file) {
  root_ = object_at(blocks_, root_address(blocks_), /*with_attributes=*/true);
  if (!root_.links) refuse("/", "is no group");
}

std::string Input::where(const std::string& path) const { return text(file_.path().string(), ": ", path); }

void Input::refuse(const std::string& path, std::string what, const char* fix) const {
  throw Error({.kind = ErrorKind::input,
               .where = where(path),
               .what = std::move(what),
               .fix = fix != nullptr ? fix : kDamaged});
}

Object Input::object_of(const LinkMessage& link, const std::string& path) {
  if (!link.is_hard) {
    refuse(path, "is a soft or external link where the dataset or group itself is expected", kFixedLength);
  }
  return object_at(blocks_, link.address, /*with_attributes=*/false);
}

const Input::Links* Input::find_group(const std::string& path) {
  if (path.size() <= 1) return &*root_.links;
  if (const auto known = groups_.find(path); known != groups_.end()) return &known->second;
  const std::size_t slash = path.rfind('/');
  const Links* const parent = find_group(path.substr(0, slash));
  if (parent == nullptr) return nullptr;
  const auto link = parent->find(path.substr(slash + 1));
  if (link == parent->end()) return nullptr;
  Object found = object_of(link->second, path);
  if (!found.links) refuse(path, "is no group");
  return &groups_.emplace(path, std::move(*found.links)).first->second;
}

const Input::Links& Input::group(const std::string& path) {
  const Links* const found = find_group(path);
  if (found == nullptr) refuse(path, "is missing");
  return *found;
}

std::uint64_t Input::num_links(const std::string& path) { return group(path).size(); }

std::optional<Found> Input::find(const std::string& group_path, const std::string& name) {
  const Links& links = group(group_path);
  const auto link = links.find(name);
  if (link == links.end()) return std::nullopt;
  Found found{.path = (group_path == "/" ? "" : group_path) + "/" + name, .shape = {}, .type = {}, .extent = {}};
  const std::string& path = found.path;
  const Object object = object_of(link->second, path);
  if (!object.has_layout || !object.type || !object.extents) refuse(path, "is no dataset");
  found.type = *object.type;
  if (found.type.is_variable) refuse(path, "its type has a variable length; only fixed ones are read", kFixedLength);
  if (!object.is_contiguous || object.is_filtered) {
    refuse(path, "is chunked, compact or virtual; only contiguous datasets are read", kRepack);
  }
  if (object.is_external) refuse(path, "its values lie in another file", kRepack);
  const std::vector<std::uint64_t>& shape = object.extents->shape;
  if (object.extents->is_null || shape.size() > 2) {
    refuse(path, text("has ", shape.size(), " axes; at most 2 are expected"));
  }
  found.extent.bytes = found.type.bytes;
  for (const std::uint64_t size : shape) {
    const bool overflows = __builtin_mul_overflow(found.extent.bytes, size, &found.extent.bytes);
    if (overflows || size > INT64_MAX) refuse(path, text("has ", size, " rows or columns"));
    found.shape.push_back(static_cast<std::int64_t>(size));
  }
  if (found.extent.bytes == 0) return found;

  const std::uint64_t file_bytes = blocks_.file_bytes();
  if (object.address == kNowhere) refuse(path, "has no values: its space was never allocated", "write its values");
  if (object.address > file_bytes || found.extent.bytes > file_bytes - object.address) {
    refuse(path, text("lies at bytes ", object.address, " to ", object.address, " + ", found.extent.bytes,
                      " of a file of ", file_bytes));
  }
  if (object.bytes != found.extent.bytes) {
    refuse(path, text("has ", object.bytes, " bytes where its type and shape take ", found.extent.bytes));
  }
  found.extent.offset = object.address;
  taken_.push_back({.begin = object.address, .end = object.address + found.extent.bytes, .path = path});
  return found;
}

Found Input::dataset(const std::string& group, const std::string& name) {
  std::optional<Found> found;
  if (has_group(group)) found = find(group, name);
  if (!found) refuse(group + "/" + name, "is missing");
  return std::move(*found);
}

void Input::expect_apart() const {
  std::vector<Taken> sorted = taken_;
  std::sort(sorted.begin(), sorted.end(), [](const Taken& a, const Taken& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].begin < sorted[i - 1].end) refuse(sorted[i].path, text("shares bytes with ", sorted[i - 1].path));
  }
}

void Input::expect_element(const Found& found, Element element) const {
  if (found.type.element == element) return;
  refuse(found.path, text("its type is ", found.type.description(), " where ", name_of(element), " is expected"));
}

void Input::expect_shape(const Found& found, std::span<const std::int64_t> shape) const {
  if (std::equal(shape.begin(), shape.end(), found.shape.begin(), found.shape.end())) return;
  refuse(found.path, text("is ", shape_text(found.shape), " where ", shape_text(shape), " is expected"));
}

template <typename T>
std::vector<T> Input::read(const Found& found, Element element) const {
  expect_element(found, element);
  std::vector<T> values(found.extent.bytes / sizeof(T));
  file_.read_at(found.extent.offset, std::as_writable_bytes(std::span(values)));
  return values;
}
template std::vector<std::uint8_t> Input::read(const Found&, Element) const;
template std::vector<std::int32_t> Input::read(const Found&, Element) const;
template std::vector<std::int64_t> Input::read(const Found&, Element) const;

std::vector<std::string> Input::read_strings(const Found& found) const {
  if (!found.type.is_string) {
    refuse(found.path, text("its type is ", found.type.description(), " where strings are expected"));
  }
  std::string bytes(found.extent.bytes, '\0');
  file_.read_at(found.extent.offset, std::as_writable_bytes(std::span(bytes)));
  std::vector<std::string> strings;
  for (std::size_t begin = 0; begin < bytes.size(); begin += found.type.bytes) {
    strings.push_back(unpadded(std::string_view(bytes).substr(begin, found.type.bytes)));
  }
  return strings;
}

Attributes Input::attributes() const {
  Attributes attributes;
  for (const AttributeMessage& attribute : root_.attributes) attributes.emplace(attribute.name, value_of(attribute));
  return attributes;
}

layerprobe::store::Attribute Input::value_of(const AttributeMessage& attribute) const {
  const std::string path = "attribute " + attribute.name;
  const ElementType& type = attribute.type;
  if (type.is_variable) refuse(path, "its type has a variable length; only fixed ones are read", kFixedLength);
  if (attribute.extents.shape.empty() && !attribute.extents.is_null) {
    if (type.bytes > attribute.value.size()) refuse(path, "has no value");
    const auto value = [&]<typename T>(T out) {
      std::memcpy(&out, attribute.value.data(), sizeof out);
      return out;
    };
    if (type.element == Element::i64) return value(std::int64_t{});
    if (type.element == Element::i32) return std::int64_t{value(std::int32_t{})};
    if (type.element == Element::f64) return value(double{});
    if (type.element == Element::f32) return double{value(float{})};
    if (type.is_string) return unpadded(std::string_view(attribute.value).substr(0, type.bytes));
  }
  refuse(path, text("is ", type.description(), "; one i64, f64 or fixed-length string is expected"), kFixedLength);
}

}  // namespace layerprobe::store::hdf5
