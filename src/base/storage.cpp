#include "base/storage.h"

#include <array>
#include <cstddef>
#include <utility>

namespace layerprobe {
namespace {

// In the order of Storage. Block sizes: ggml's ggml-common.h.
constexpr std::array<StorageTraits, 23> kTraits = {{
    {"F64", 1, 8},      {"F32", 1, 4},      {"F16", 1, 2},      {"BF16", 1, 2},    {"I64", 1, 8},
    {"I32", 1, 4},      {"I16", 1, 2},      {"I8", 1, 1},       {"U8", 1, 1},      {"BOOL", 1, 1},
    {"F8_E4M3", 1, 1},  {"F8_E5M2", 1, 1},  {"F8_E8M0", 1, 1},  {"Q4_0", 32, 18},  {"Q4_1", 32, 20},
    {"Q5_0", 32, 22},   {"Q5_1", 32, 24},   {"Q8_0", 32, 34},   {"Q2_K", 256, 84}, {"Q3_K", 256, 110},
    {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
}};
static_assert(kTraits[static_cast<std::size_t>(Storage::q6_k)].name == "Q6_K");

// ggml.h's enum ggml_type: those with a Storage, then the names of those without.
constexpr std::pair<std::uint32_t, Storage> kGgmlTypes[] = {
    {0, Storage::f32},   {1, Storage::f16},   {2, Storage::q4_0},  {3, Storage::q4_1},  {6, Storage::q5_0},
    {7, Storage::q5_1},  {8, Storage::q8_0},  {10, Storage::q2_k}, {11, Storage::q3_k}, {12, Storage::q4_k},
    {13, Storage::q5_k}, {14, Storage::q6_k}, {24, Storage::i8},   {25, Storage::i16},  {26, Storage::i32},
    {27, Storage::i64},  {28, Storage::f64},  {30, Storage::bf16},
};
constexpr std::pair<std::uint32_t, std::string_view> kUnreadGgmlTypes[] = {
    {4, "Q4_2"},     {5, "Q4_3"},   {9, "Q8_1"},    {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
    {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"},
    {29, "IQ1_M"},   {34, "TQ1_0"}, {35, "TQ2_0"},  {39, "MXFP4"},
};

}  // namespace

const StorageTraits& traits_of(Storage storage) { return kTraits[static_cast<std::size_t>(storage)]; }

std::string_view name_of(Storage storage) { return traits_of(storage).name; }

bool is_convertible(Storage storage) { return storage < Storage::boolean || storage > Storage::f8_e8m0; }

bool is_same(Storage storage, Dtype dtype) {
  switch (storage) {
    case Storage::f64:
      return dtype == Dtype::f64;
    case Storage::f32:
      return dtype == Dtype::f32;
    case Storage::f16:
      return dtype == Dtype::f16;
    case Storage::bf16:
      return dtype == Dtype::bf16;
    default:
      return false;
  }
}

std::optional<Storage> storage_of_safetensors(std::string_view dtype) {
  for (std::size_t i = 0; i <= static_cast<std::size_t>(Storage::f8_e8m0); ++i) {
    if (kTraits[i].name == dtype) return static_cast<Storage>(i);
  }
  return std::nullopt;
}

std::optional<Storage> storage_of_ggml(std::uint32_t type) {
  for (const auto& [number, storage] : kGgmlTypes) {
    if (number == type) return storage;
  }
  return std::nullopt;
}

std::string_view ggml_type_name(std::uint32_t type) {
  if (const auto storage = storage_of_ggml(type)) return name_of(*storage);
  for (const auto& [number, name] : kUnreadGgmlTypes) {
    if (number == type) return name;
  }
  return "unknown";
}

}  // namespace layerprobe
