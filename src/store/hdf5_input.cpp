#include "store/hdf5_input.h"

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace layerprobe::store::hdf5 {
namespace {

constexpr const char* kDamaged = "the file is damaged, or no file of layerprobe's; make or fetch it again";
constexpr const char* kRepack = "rewrite it: h5repack -l CONTI -f NONE OLD.h5 NEW.h5";
constexpr const char* kFixedLength =
    "write it as store/format.h says, with types of fixed length (h5py: numpy.bytes_ for a string)";
constexpr std::size_t kMaxAttributes = 10000;

herr_t collect_name(hid_t, const char* name, const H5A_info_t*, void* names) {
  auto& collected = *static_cast<std::vector<std::string>*>(names);
  collected.emplace_back(name);
  return collected.size() > kMaxAttributes ? -1 : 0;
}

bool is_variable(hid_t type) { return H5Tdetect_class(type, H5T_VLEN) != 0 || H5Tis_variable_str(type) != 0; }

bool equal(hid_t type, Element element) { return H5Tequal(type, type_of(element).get()) > 0; }

/// "i64", "string of 8 bytes", "integer of 2 bytes", ...
std::string description(hid_t type) {
  for (const Element element :
       {Element::u8, Element::i32, Element::i64, Element::f16, Element::bf16, Element::f32, Element::f64}) {
    if (equal(type, element)) return name_of(element);
  }
  const H5T_class_t kind = H5Tget_class(type);
  const char* name = kind == H5T_INTEGER  ? "integer"
                     : kind == H5T_FLOAT  ? "float"
                     : kind == H5T_STRING ? "string"
                                          : "another kind";
  return text(name, " of ", H5Tget_size(type), " bytes");
}

/// `bytes` up to the first NUL.
std::string unpadded(std::string_view bytes) { return std::string(bytes.substr(0, bytes.find('\0'))); }

}  // namespace

Input::Input(const layerprobe::File& file) : file_(file), file_bytes_(file.size()) {
  prepare();
  const Properties access(checked(H5Pcreate(H5P_FILE_ACCESS), ""));
  checked(H5Pset_file_locking(access.get(), false, true), "");
  handle_ = File(check(H5Fopen(file.path().c_str(), H5F_ACC_RDONLY, access.get()), file.path().string(),
                       "name a whole HDF5 file, as layerprobe or scripts/capture_hf.py writes it"));
}

hid_t Input::checked(hid_t result, const std::string& path) const {
  return check(result, path.empty() ? file_.path().string() : where(path), kDamaged);
}

std::string Input::where(const std::string& path) const { return text(file_.path().string(), ": ", path); }

void Input::refuse(const std::string& path, std::string what, const char* fix) const {
  throw Error({.kind = ErrorKind::input,
               .where = where(path),
               .what = std::move(what),
               .fix = fix != nullptr ? fix : kDamaged});
}

void Input::expect_hard_link(hid_t parent, const std::string& name, const std::string& path) const {
  H5L_info_t info{};
  checked(H5Lget_info(parent, name.c_str(), &info, H5P_DEFAULT), path);
  if (info.type != H5L_TYPE_HARD) {
    refuse(path, "is a soft or external link where the dataset or group itself is expected", kFixedLength);
  }
}

bool Input::has_group(const std::string& path) const {
  std::string parent;
  for (const std::string& name : split(path.substr(1), '/')) {  // each step of the path by itself: no link is followed
    const std::string step = parent + "/" + name;
    if (checked(H5Lexists(handle_.get(), step.c_str(), H5P_DEFAULT), step) == 0) return false;
    expect_hard_link(handle_.get(), step, step);
    parent = step;
  }
  const Group group(checked(H5Gopen2(handle_.get(), path.c_str(), H5P_DEFAULT), path));
  return true;
}

std::uint64_t Input::num_links(const std::string& group) const {
  const Group opened(checked(H5Gopen2(handle_.get(), group.c_str(), H5P_DEFAULT), group));
  H5G_info_t info{};
  checked(H5Gget_info(opened.get(), &info), group);
  return info.nlinks;
}

std::optional<Found> Input::find(const std::string& group, const std::string& name) {
  Found found{
      .path = (group == "/" ? "" : group) + "/" + name, .shape = {}, .type = {}, .element_bytes = 0, .extent = {}};
  const std::string& path = found.path;
  const Group parent(checked(H5Gopen2(handle_.get(), group.c_str(), H5P_DEFAULT), group));
  if (checked(H5Lexists(parent.get(), name.c_str(), H5P_DEFAULT), path) == 0) return std::nullopt;
  expect_hard_link(parent.get(), name, path);
  const Dataset dataset(checked(H5Dopen2(parent.get(), name.c_str(), H5P_DEFAULT), path));

  found.type = Type(checked(H5Dget_type(dataset.get()), path));
  if (is_variable(found.type.get()))
    refuse(path, "its type has a variable length; only fixed ones are read", kFixedLength);
  found.element_bytes = H5Tget_size(found.type.get());
  if (found.element_bytes == 0) refuse(path, "its type has no bytes");
  const Properties creation(checked(H5Dget_create_plist(dataset.get()), path));
  if (H5Pget_layout(creation.get()) != H5D_CONTIGUOUS) {
    refuse(path, "is chunked, compact or virtual; only contiguous datasets are read", kRepack);
  }
  if (H5Pget_external_count(creation.get()) != 0) refuse(path, "its values lie in another file", kRepack);

  const Space space(checked(H5Dget_space(dataset.get()), path));
  const int rank = static_cast<int>(checked(H5Sget_simple_extent_ndims(space.get()), path));
  if (H5Sget_simple_extent_type(space.get()) == H5S_NULL || rank > 2) {
    refuse(path, text("has ", rank, " axes; at most 2 are expected"));
  }
  hsize_t shape[2] = {};
  checked(H5Sget_simple_extent_dims(space.get(), shape, nullptr), path);
  found.extent.bytes = found.element_bytes;
  for (int axis = 0; axis < rank; ++axis) {
    found.shape.push_back(static_cast<std::int64_t>(shape[axis]));
    const bool overflows = __builtin_mul_overflow(found.extent.bytes, shape[axis], &found.extent.bytes);
    if (overflows || shape[axis] > INT64_MAX) refuse(path, text("has ", shape[axis], " rows or columns"));
  }
  if (found.extent.bytes == 0) return found;

  const haddr_t offset = H5Dget_offset(dataset.get());
  if (offset == HADDR_UNDEF) refuse(path, "has no values: its space was never allocated", "write its values");
  if (offset > file_bytes_ || found.extent.bytes > file_bytes_ - offset) {
    refuse(path,
           text("lies at bytes ", offset, " to ", offset, " + ", found.extent.bytes, " of a file of ", file_bytes_));
  }
  found.extent.offset = offset;
  taken_.push_back({.begin = offset, .end = offset + found.extent.bytes, .path = path});
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
  if (equal(found.type.get(), element)) return;
  refuse(found.path, text("its type is ", description(found.type.get()), " where ", name_of(element), " is expected"));
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
  if (H5Tget_class(found.type.get()) != H5T_STRING) {
    refuse(found.path, text("its type is ", description(found.type.get()), " where strings are expected"));
  }
  std::string bytes(found.extent.bytes, '\0');
  file_.read_at(found.extent.offset, std::as_writable_bytes(std::span(bytes)));
  std::vector<std::string> strings;
  for (std::size_t begin = 0; begin < bytes.size(); begin += found.element_bytes) {
    strings.push_back(unpadded(std::string_view(bytes).substr(begin, found.element_bytes)));
  }
  return strings;
}

Attributes Input::attributes() const {
  std::vector<std::string> names;
  checked(H5Aiterate2(handle_.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_name, &names), "its attributes");
  Attributes attributes;
  for (const std::string& name : names) attributes.emplace(name, attribute(name));
  return attributes;
}

layerprobe::store::Attribute Input::attribute(const std::string& name) const {
  const std::string path = "attribute " + name;
  const Attribute opened(checked(H5Aopen(handle_.get(), name.c_str(), H5P_DEFAULT), path));
  const Type type(checked(H5Aget_type(opened.get()), path));
  if (is_variable(type.get())) refuse(path, "its type has a variable length; only fixed ones are read", kFixedLength);
  const Space space(checked(H5Aget_space(opened.get()), path));
  const auto read = [&]<typename T>(T value) {
    checked(H5Aread(opened.get(), type.get(), &value), path);
    return value;
  };
  if (H5Sget_simple_extent_type(space.get()) == H5S_SCALAR) {
    if (equal(type.get(), Element::i64)) return read(std::int64_t{});
    if (equal(type.get(), Element::i32)) return std::int64_t{read(std::int32_t{})};
    if (equal(type.get(), Element::f64)) return read(double{});
    if (equal(type.get(), Element::f32)) return double{read(float{})};
    if (H5Tget_class(type.get()) == H5T_STRING && H5Tget_size(type.get()) <= file_bytes_) {
      std::string bytes(H5Tget_size(type.get()), '\0');
      checked(H5Aread(opened.get(), type.get(), bytes.data()), path);
      return unpadded(bytes);
    }
  }
  refuse(path, text("is ", description(type.get()), "; one i64, f64 or fixed-length string is expected"), kFixedLength);
}

}  // namespace layerprobe::store::hdf5
