#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace layerprobe {

/// The types values are computed and captured in. What a checkpoint stores is Storage.
enum class Dtype : std::uint8_t { f64, f32, f16, bf16, i32 };

constexpr std::size_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return 8;
    case Dtype::f32:
      return 4;
    case Dtype::i32:
      return 4;
    case Dtype::f16:
      return 2;
    case Dtype::bf16:
      return 2;
  }
  return 0;
}

/// As config.json and torch spell it: "float64", "float32", "float16", "bfloat16", "int32".
constexpr std::string_view name_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return "float64";
    case Dtype::f32:
      return "float32";
    case Dtype::i32:
      return "int32";
    case Dtype::f16:
      return "float16";
    case Dtype::bf16:
      return "bfloat16";
  }
  return "?";
}

/// The floating dtype of that name, with or without a leading "torch."; nothing when there is none.
constexpr std::optional<Dtype> find_dtype(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
    if (name == name_of(dtype)) return dtype;
  }
  return std::nullopt;
}

}  // namespace layerprobe
