#include "runtime/npy.h"

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

Error refuse(const std::filesystem::path& path, std::string what) {
  return Error({.kind = ErrorKind::input,
                .where = path.string(),
                .what = std::move(what),
                .fix = "save the ids as numpy.save(path, ids.astype('int32')) with shape [num_prompts, num_tokens]"});
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

}  // namespace

IntegerMatrix read_npy_integers(const std::filesystem::path& path, std::int64_t max_elements) {
  const File file = File::open_for_reading(path);
  const std::uint64_t size = file.size();
  std::array<std::byte, 12> start{};
  if (size < start.size()) throw refuse(path, "is no .npy file: it is shorter than a header");
  file.read_at(0, start);
  if (std::memcmp(start.data(), "\x93NUMPY", 6) != 0) throw refuse(path, "is no .npy file: its first bytes are others");
  const bool is_short = start[6] == std::byte{1};
  const std::size_t begin = is_short ? 10 : 12;
  const std::size_t header_bytes = static_cast<std::size_t>(element(start.data() + 8, is_short ? 2 : 4, false));
  if (header_bytes > kMaxHeaderBytes) {
    throw refuse(path, text("header of ", header_bytes, " bytes; at most ", kMaxHeaderBytes, " are read"));
  }
  if (begin + header_bytes > size) throw refuse(path, "its header is cut off");
  std::string header(header_bytes, '\0');
  file.read_at(begin, std::as_writable_bytes(std::span(header)));

  const std::string descr = field(header, "descr", "'[^']*'");
  const std::string shape = field(header, "shape", "\\(\\s*\\d{1,15}\\s*,\\s*\\d{1,15}\\s*,?\\s*\\)");
  std::smatch type;
  static const std::regex kIntegers("'[<|]([iu])([1248])'");
  if (!std::regex_match(descr, type, kIntegers))
    throw refuse(path, text("holds ", descr, ", not little-endian integers"));
  if (field(header, "fortran_order", "True|False") != "False") throw refuse(path, "is in Fortran order");
  if (shape.empty()) throw refuse(path, "is not two-dimensional [num_prompts, num_tokens]");

  const std::size_t width = static_cast<std::size_t>(type[2].str()[0] - '0');
  IntegerMatrix out;
  out.rows = std::stoll(shape.substr(1));
  out.columns = std::stoll(shape.substr(shape.find(',') + 1));
  const std::uint64_t available = (size - begin - header_bytes) / width;
  const bool fits =
      out.rows == 0 || static_cast<std::uint64_t>(out.columns) <= available / static_cast<std::uint64_t>(out.rows);
  if (!fits) throw refuse(path, text("is cut off: it says ", shape, " and holds ", available, " elements"));
  if (out.rows * out.columns > max_elements) {
    throw refuse(path, text("is ", shape, "; at most ", max_elements, " elements are read"));
  }

  std::vector<std::byte> bytes(static_cast<std::size_t>(out.rows * out.columns) * width);
  file.read_at(begin + header_bytes, bytes);
  out.values.resize(bytes.size() / width);
  for (std::size_t i = 0; i < out.values.size(); ++i) {
    out.values[i] = element(bytes.data() + i * width, width, type[1].str() == "i");
  }
  return out;
}

}  // namespace layerprobe::runtime
