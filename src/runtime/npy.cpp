#include "runtime/npy.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <regex>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace layerprobe::runtime {
namespace {

constexpr std::size_t kMaxHeaderBytes = 4096;  // numpy writes 118 for two axes; std::regex recurses once a character

Error refuse(const std::filesystem::path& path, std::string what, const std::string& fix) {
  return Error({.kind = ErrorKind::input, .where = path.string(), .what = std::move(what), .fix = fix});
}

/// The value of `key` in the header, a Python dictionary literal.
std::string field(const std::string& header, const std::string& key, const std::string& value_pattern) {
  std::smatch found;
  const std::regex pattern("'" + key + "'\\s*:\\s*(" + value_pattern + ")");
  return std::regex_search(header, found, pattern) ? found[1].str() : std::string();
}

template <typename T>
std::int64_t element(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return static_cast<std::int64_t>(value);
}

std::int64_t element(const std::byte* at, std::size_t width, bool is_signed) {
  switch (width) {
    case 1:
      return is_signed ? element<std::int8_t>(at) : element<std::uint8_t>(at);
    case 2:
      return is_signed ? element<std::int16_t>(at) : element<std::uint16_t>(at);
    case 4:
      return is_signed ? element<std::int32_t>(at) : element<std::uint32_t>(at);
    default:
      return element<std::int64_t>(at);
  }
}

/// The numbers of 'shape': (3, 4), (5,) or (); nothing for anything else and for more than 8. By hand: a regular
/// expression with so many ways to read the same digits takes for ever where a header wants it to.
std::optional<std::vector<std::int64_t>> shape_of(const std::string& header) {
  const std::size_t key = header.find("'shape'");
  std::size_t at = key == header.npos ? header.npos : header.find('(', key);
  if (at == header.npos) return std::nullopt;
  std::vector<std::int64_t> out;
  const auto skip_spaces = [&] { at = std::min(header.find_first_not_of(" \t", at), header.size()); };
  for (++at; at < header.size();) {
    skip_spaces();
    if (at < header.size() && header[at] == ')') return out;
    const std::size_t end = std::min(header.find_first_not_of("0123456789", at), header.size());
    if (end == at || end - at > 15 || out.size() == 8) return std::nullopt;
    out.push_back(std::stoll(header.substr(at, end - at)));
    at = end;
    skip_spaces();
    if (at < header.size() && header[at] == ',') {
      ++at;
    } else if (at >= header.size() || header[at] != ')') {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

}  // namespace

NpyHeader read_npy_header(const File& file, const std::string& fix) {
  const std::filesystem::path& path = file.path();
  const std::uint64_t size = file.size();
  std::array<std::byte, 12> start{};
  if (size < start.size()) throw refuse(path, "is no .npy file: it is shorter than a header", fix);
  file.read_at(0, start);
  if (std::memcmp(start.data(), "\x93NUMPY", 6) != 0) {
    throw refuse(path, "is no .npy file: its first bytes are others", fix);
  }
  const bool is_short = start[6] == std::byte{1};
  const std::size_t begin = is_short ? 10 : 12;
  const std::size_t header_bytes = static_cast<std::size_t>(element(start.data() + 8, is_short ? 2 : 4, false));
  if (header_bytes > kMaxHeaderBytes) {
    throw refuse(path, text("header of ", header_bytes, " bytes; at most ", kMaxHeaderBytes, " are read"), fix);
  }
  if (begin + header_bytes > size) throw refuse(path, "its header is cut off", fix);
  std::string header(header_bytes, '\0');
  file.read_at(begin, std::as_writable_bytes(std::span(header)));

  const std::string descr = field(header, "descr", "'[^']*'");
  const std::optional<std::vector<std::int64_t>> shape = shape_of(header);
  std::smatch type;
  static const std::regex kPlain("'[<|]([a-zA-Z]\\d{1,3})'");
  if (!std::regex_match(descr, type, kPlain)) {
    throw refuse(path, text("holds ", descr.empty() ? "no plain type" : descr, ", not little-endian numbers"), fix);
  }
  if (field(header, "fortran_order", "True|False") != "False") throw refuse(path, "is in Fortran order", fix);
  if (!shape) throw refuse(path, "has no shape of at most 8 axes", fix);

  NpyHeader out = {.type = type[1].str(), .shape = *shape, .count = 1, .offset = begin + header_bytes};
  const std::uint64_t width = std::stoul(out.type.substr(1));
  if (width == 0) throw refuse(path, text("holds ", descr, ", which has no size"), fix);
  const std::uint64_t available = (size - out.offset) / width;
  bool fits = true;
  for (const std::int64_t axis : out.shape) {
    fits = fits && (axis == 0 || out.count <= (std::int64_t{1} << 62) / axis);
    if (fits) out.count *= axis;
  }
  if (!fits || static_cast<std::uint64_t>(out.count) > available) {
    throw refuse(path, text("is cut off: it says ", shape_text(*shape), " and holds ", available, " elements"), fix);
  }
  return out;
}

IntegerMatrix read_npy_integers(const std::filesystem::path& path, std::int64_t max_elements) {
  const std::string fix = "save the ids as numpy.save(path, ids.astype('int32')) with shape [num_prompts, num_tokens]";
  const File file = File::open_for_reading(path);
  const NpyHeader header = read_npy_header(file, fix);
  static const std::regex kIntegers("([iu])([1248])");
  std::smatch type;
  if (!std::regex_match(header.type, type, kIntegers)) {
    throw refuse(path, text("holds '", header.type, "', not little-endian integers"), fix);
  }
  if (header.shape.size() != 2) throw refuse(path, "is not two-dimensional [num_prompts, num_tokens]", fix);
  if (header.count > max_elements) {
    throw refuse(path, text("is ", shape_text(header.shape), "; at most ", max_elements, " elements are read"), fix);
  }
  const std::size_t width = static_cast<std::size_t>(type[2].str()[0] - '0');
  IntegerMatrix out = {.rows = header.shape[0], .columns = header.shape[1], .values = {}};
  std::vector<std::byte> bytes(static_cast<std::size_t>(header.count) * width);
  file.read_at(header.offset, bytes);
  out.values.resize(bytes.size() / width);
  for (std::size_t i = 0; i < out.values.size(); ++i) {
    out.values[i] = element(bytes.data() + i * width, width, type[1].str() == "i");
  }
  return out;
}

}  // namespace layerprobe::runtime
