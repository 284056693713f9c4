#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/dtype.h"

namespace layerprobe {

/// How a checkpoint stores a tensor's values: safetensors' dtypes, then ggml's block types.
enum class Storage : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u8,
  boolean,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
};

/// Values are stored in blocks of `block_elements` consecutive values of a row, each `block_bytes` long; 1 and the
/// value's own size for plain types.
struct StorageTraits {
  std::string_view name;  // as the file formats spell it: "F32", "BF16", "Q4_K"
  std::int64_t block_elements;
  std::int64_t block_bytes;
};
const StorageTraits& traits_of(Storage storage);

/// "F32", "BF16", "Q4_K", ...: as the file formats spell it.
std::string_view name_of(Storage storage);

/// Whether its values mean something by themselves: not FP8 and booleans, which need their scales.
bool is_convertible(Storage storage);

/// Whether values of `dtype` are kept as the same bits.
bool is_same(Storage storage, Dtype dtype);

/// The storage of a safetensors dtype string ("BF16"); nothing when we have none.
std::optional<Storage> storage_of_safetensors(std::string_view dtype);

/// The storage of a ggml type number (12 is Q4_K); nothing when we have none.
std::optional<Storage> storage_of_ggml(std::uint32_t type);
/// "IQ4_XS", "MXFP4", ... for a type we do not read; "unknown" for a number without a name.
std::string_view ggml_type_name(std::uint32_t type);

}  // namespace layerprobe
