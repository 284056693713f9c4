#include "weights/gguf_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "weights/file_cursor.h"

namespace layerprobe::weights {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::uint64_t kMaxValues = 4096;
constexpr std::uint64_t kMaxNameBytes = 65'535;
constexpr std::uint64_t kMaxKeptBytes = 65'536;
constexpr std::uint64_t kMaxKeptItems = 4096;
constexpr std::uint64_t kMaxStrings = 5'000'000;  // of an array that is read, as many as values in JSON
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kDefaultAlignment = 32;

Error refuse(const File& file, std::string what, const std::string& fix = "the file is damaged; fetch it again") {
  return Error({.kind = ErrorKind::input, .where = file.path().string(), .what = std::move(what), .fix = fix});
}

/// Bytes of a value in the file; a string's least (its length).
std::uint64_t min_bytes_of(GgufType type) {
  static constexpr std::array<std::uint8_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return kBytes[static_cast<std::size_t>(type)];
}

/// An f32 as the shortest decimal that means it: the 1e-05 that config.json had, not 9.999999747378752e-06.
double decimal_of(float value) {
  if (!std::isfinite(value)) return value;
  std::array<char, 32> digits;
  const char* const end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  double out = 0;
  std::from_chars(digits.data(), end, out);
  return out;
}

GgufType read_type(const File& file, FileCursor& cursor, const std::string& key) {
  const std::uint32_t type = cursor.read<std::uint32_t>();
  if (type > static_cast<std::uint32_t>(GgufType::f64)) {
    throw refuse(file, text("key ", key, ": value type ", type, " is not known"));
  }
  return static_cast<GgufType>(type);
}

Json read_scalar(FileCursor& cursor, GgufType type) {
  switch (type) {
    case GgufType::u8:
      return static_cast<std::int64_t>(cursor.read<std::uint8_t>());
    case GgufType::i8:
      return static_cast<std::int64_t>(cursor.read<std::int8_t>());
    case GgufType::u16:
      return static_cast<std::int64_t>(cursor.read<std::uint16_t>());
    case GgufType::i16:
      return static_cast<std::int64_t>(cursor.read<std::int16_t>());
    case GgufType::u32:
      return static_cast<std::int64_t>(cursor.read<std::uint32_t>());
    case GgufType::i32:
      return static_cast<std::int64_t>(cursor.read<std::int32_t>());
    case GgufType::i64:
      return cursor.read<std::int64_t>();
    case GgufType::u64: {
      const std::uint64_t value = cursor.read<std::uint64_t>();
      return value > INT64_MAX ? Json(static_cast<double>(value)) : Json(static_cast<std::int64_t>(value));
    }
    case GgufType::f32:
      return decimal_of(cursor.read<float>());
    case GgufType::f64:
      return cursor.read<double>();
    case GgufType::boolean:
      return cursor.read<std::uint8_t>() != 0;
    case GgufType::string:
    case GgufType::array:
      break;
  }
  expect(false, "read_scalar is given a scalar's type");
  return {};
}

void read_array(const File& file, FileCursor& cursor, const std::string& key, GgufHeader& out) {
  const GgufType type = read_type(file, cursor, key);
  const std::uint64_t count = cursor.read<std::uint64_t>();
  if (type == GgufType::array) throw refuse(file, text("key ", key, ": an array of arrays, which is not read"));
  cursor.expect_room(count, min_bytes_of(type), "items of an array");
  out.arrays[key] = {.type = type, .count = count, .offset = cursor.offset()};
  if (type == GgufType::string) {
    for (std::uint64_t i = 0; i < count; ++i) cursor.skip(cursor.read<std::uint64_t>());
  } else if (count > kMaxKeptItems) {
    cursor.skip(count * min_bytes_of(type));
  } else {
    Json::Array items;
    for (std::uint64_t i = 0; i < count; ++i) items.push_back(read_scalar(cursor, type));
    out.values[key] = std::move(items);
  }
}

std::string read_name(const File& file, FileCursor& cursor, const char* what) {
  const std::uint64_t offset = cursor.offset();
  const std::uint64_t bytes = cursor.read<std::uint64_t>();
  if (bytes == 0 || bytes > kMaxNameBytes) {
    throw refuse(file, text("the ", what, " at byte ", offset, " is ", bytes, " bytes long; 1 to ", kMaxNameBytes,
                            " are possible"));
  }
  std::string name = cursor.read_bytes(bytes);
  if (!is_utf8(name)) throw refuse(file, text("the ", what, " at byte ", offset, " is not UTF-8"));
  return name;
}

void read_value(const File& file, FileCursor& cursor, GgufHeader& out) {
  const std::string key = read_name(file, cursor, "key");
  if (out.values.contains(key) || out.arrays.contains(key)) throw refuse(file, text("key ", key, " stands twice"));
  const GgufType type = read_type(file, cursor, key);
  if (type == GgufType::array) return read_array(file, cursor, key, out);
  if (type != GgufType::string) {
    out.values[key] = read_scalar(cursor, type);
    return;
  }
  const std::uint64_t bytes = cursor.read<std::uint64_t>();
  if (bytes <= kMaxKeptBytes) {
    out.values[key] = cursor.read_bytes(bytes);
  } else {
    cursor.skip(bytes);
    out.values[key] = nullptr;
  }
}

/// One tensor's entry; its offset still counts from the data's first byte.
TensorInfo read_tensor(const File& file, FileCursor& cursor) {
  TensorInfo out{.name = read_name(file, cursor, "tensor name"), .storage = Storage::f32, .shape = {}};
  const auto refuse_tensor = [&](std::string what, const char* fix = "the file is damaged; fetch it again") {
    return refuse(file, text("tensor ", out.name, ": ", what), fix);
  };
  const std::uint32_t num_dimensions = cursor.read<std::uint32_t>();
  if (num_dimensions == 0 || num_dimensions > kMaxDimensions) {
    throw refuse_tensor(text("has ", num_dimensions, " dimensions; 1 to ", kMaxDimensions, " are possible"));
  }
  for (std::uint32_t i = 0; i < num_dimensions; ++i) {
    const std::uint64_t size = cursor.read<std::uint64_t>();
    if (size > INT64_MAX) throw refuse_tensor(text("dimension ", i, " is ", size));
    out.shape.push_back(static_cast<std::int64_t>(size));
  }
  std::reverse(out.shape.begin(), out.shape.end());
  const std::uint32_t type = cursor.read<std::uint32_t>();
  const std::optional<Storage> storage = storage_of_ggml(type);
  if (!storage) {
    throw refuse_tensor(text("its type ", type, " (", ggml_type_name(type), ") is not supported"),
                        "supported are F64 F32 F16 BF16, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0, Q2_K to Q6_K, I8 to I64");
  }
  out.storage = *storage;
  const std::int64_t block_elements = traits_of(*storage).block_elements;
  if (out.shape.back() % block_elements != 0) {
    throw refuse_tensor(
        text("rows of ", out.shape.back(), " are no whole blocks of ", block_elements, " (", name_of(*storage), ")"));
  }
  const std::optional<std::uint64_t> bytes = bytes_of(out.shape, *storage);
  if (!bytes) throw refuse_tensor(text("shape ", shape_text(out.shape), " overflows"));
  out.bytes = *bytes;
  out.offset = cursor.read<std::uint64_t>();
  return out;
}

std::uint64_t alignment_of(const File& file, const GgufHeader& header) {
  const auto found = header.values.find("general.alignment");
  if (found == header.values.end()) return kDefaultAlignment;
  const std::int64_t value = found->second.is_integer() ? found->second.integer() : 0;
  if (value <= 0 || value > UINT32_MAX || !std::has_single_bit(static_cast<std::uint64_t>(value))) {
    throw refuse(file, text("general.alignment is ", found->second.dump().substr(0, 40), "; a power of two is due"));
  }
  return static_cast<std::uint64_t>(value);
}

/// Makes the offsets count from the file's first byte; they must be aligned, inside the file and apart.
void place_tensors(const File& file, std::uint64_t header_end, GgufHeader& header) {
  const std::uint64_t alignment = alignment_of(file, header);
  const std::uint64_t data_begin = (header_end + alignment - 1) / alignment * alignment;
  const std::uint64_t file_bytes = file.size();
  const std::uint64_t data_bytes = file_bytes - std::min(data_begin, file_bytes);
  for (TensorInfo& tensor : header.tensors) {
    if (tensor.offset % alignment != 0) {
      throw refuse(file, text("tensor ", tensor.name, ": offset ", tensor.offset, " is no multiple of the alignment, ",
                              alignment));
    }
    if (tensor.bytes > data_bytes || tensor.offset > data_bytes - tensor.bytes) {
      throw refuse(file,
                   text("tensor ", tensor.name, ": ", tensor.bytes, " bytes at offset ", tensor.offset,
                        ", where the file has ", data_bytes, " bytes of data"),
                   "the file is damaged or was cut off; fetch it again");
    }
    tensor.offset += data_begin;
  }
  std::vector<const TensorInfo*> order;
  for (const TensorInfo& tensor : header.tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->offset, a->bytes) < std::pair(b->offset, b->bytes);
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes <= order[i]->offset) continue;
    throw refuse(file, text("tensor ", order[i]->name, " overlaps tensor ", order[i - 1]->name));
  }
}

void check_version(const File& file, std::uint32_t magic, std::uint32_t version) {
  if (magic != kMagic) {
    const std::string folder = file.path().parent_path().string();
    const std::string ending = file.path().extension().string();
    const bool is_part = ending == ".safetensors" || ending == ".json";
    throw refuse(file, "does not begin with GGUF",
                 is_part ? text("name the model's folder: ", folder.empty() ? "." : folder)
                         : "name a .gguf file or a model's folder");
  }
  if (version == 2 || version == 3) return;
  if (version != 0 && (version & 0xffffu) == 0) {
    throw refuse(file, "is a big-endian GGUF; only little-endian ones are read", "convert it with gguf_convert_endian");
  }
  throw refuse(file, text("is GGUF version ", version, "; 2 and 3 are read"), "convert the model again");
}

}  // namespace

GgufHeader read_gguf_header(const File& file, int file_index) {
  FileCursor cursor(file, 0);
  const std::uint32_t magic = cursor.read<std::uint32_t>();
  check_version(file, magic, cursor.read<std::uint32_t>());
  const std::uint64_t num_tensors = cursor.read<std::uint64_t>();
  const std::uint64_t num_values = cursor.read<std::uint64_t>();
  if (num_values > kMaxValues)
    throw refuse(file, text(num_values, " metadata keys; at most ", kMaxValues, " are read"));
  GgufHeader out;
  for (std::uint64_t i = 0; i < num_values; ++i) read_value(file, cursor, out);
  cursor.expect_room(num_tensors, 8 + 4 + 8 + 4 + 8, "tensors");
  for (std::uint64_t i = 0; i < num_tensors; ++i) {
    out.tensors.push_back(read_tensor(file, cursor));
    out.tensors.back().file = file_index;
  }
  place_tensors(file, cursor.offset(), out);
  return out;
}

std::vector<std::string> read_strings(const File& file, const GgufArray& array, const std::string& key) {
  if (array.type != GgufType::string) throw refuse(file, text("key ", key, ": is no array of strings"));
  if (array.count > kMaxStrings) {
    throw refuse(file, text("key ", key, ": has ", array.count, " strings; at most ", kMaxStrings, " are read"));
  }
  FileCursor cursor(file, array.offset);
  std::vector<std::string> out;
  out.reserve(array.count);
  for (std::uint64_t i = 0; i < array.count; ++i) out.push_back(cursor.read_bytes(cursor.read<std::uint64_t>()));
  return out;
}

std::vector<std::int32_t> read_int32s(const File& file, const GgufArray& array, const std::string& key) {
  if (array.type != GgufType::i32 && array.type != GgufType::u32) {
    throw refuse(file, text("key ", key, ": is no array of 32-bit integers"));
  }
  FileCursor cursor(file, array.offset);
  std::vector<std::int32_t> out;
  out.reserve(array.count);
  for (std::uint64_t i = 0; i < array.count; ++i) out.push_back(cursor.read<std::int32_t>());
  return out;
}

}  // namespace layerprobe::weights
