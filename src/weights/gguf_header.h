#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "weights/tensor_info.h"

namespace layerprobe::weights {

/// The types of GGUF's metadata values, by their numbers in the file.
enum class GgufType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// Where an array's items lie; they were walked over once, so that they are known to be inside the file.
struct GgufArray {
  GgufType type;
  std::uint64_t count;
  std::uint64_t offset;  // of the first item
};

/// What stands before a GGUF's data, at most 100 MB. Layout: ggml's docs/gguf.md, versions 2 and 3, little-endian.
struct GgufHeader {
  std::map<std::string, Json, std::less<>> values;  // scalars, strings, arrays of up to 4096 scalars; null: too long
  std::map<std::string, GgufArray, std::less<>> arrays;  // all arrays
  std::vector<TensorInfo> tensors;                       // GGUF's own names, in the file's order
};

/// Reads everything before the data. Throws Error(input), naming the key or tensor, for another version, a count,
/// length, offset or alignment that cannot be, an array of arrays, a name that stands twice or is no UTF-8, a tensor
/// type we do not read, and tensors that overlap or leave the file.
GgufHeader read_gguf_header(const File& file, int file_index);

/// All items of a string array, and of an array of 32-bit integers. Throws Error(input) when it is of another type.
std::vector<std::string> read_strings(const File& file, const GgufArray& array, const std::string& key);
std::vector<std::int32_t> read_int32s(const File& file, const GgufArray& array, const std::string& key);

}  // namespace layerprobe::weights
