#include "weights/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"

namespace layerprobe::weights {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // safetensors' own limit
constexpr const char* kDamaged = "the file is damaged or was cut off; fetch it again";

Error refuse(const File& file, std::string what, const char* fix = kDamaged) {
  return Error({.kind = ErrorKind::input, .where = file.path().string(), .what = std::move(what), .fix = fix});
}

Error refuse_tensor(const File& file, const std::string& tensor, std::string what, const char* fix = kDamaged) {
  return refuse(file, text("tensor ", tensor, ": ", what), fix);
}

constexpr std::uint64_t kLfsPointer = 0x206e6f6973726576;  // "version ", which such a text begins with

std::string read_header_text(const File& file) {
  const std::uint64_t file_bytes = file.size();
  if (file_bytes < 8) throw refuse(file, text("is ", file_bytes, " bytes, too short for a safetensors file"));
  std::uint64_t header_bytes = 0;
  file.read_at(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
  if (header_bytes == kLfsPointer) {
    throw refuse(file, "is a Git LFS pointer, which stands for the weights in a clone without them",
                 "run git lfs pull in the model's folder, or fetch the file with hf download");
  }
  if (header_bytes > kMaxHeaderBytes) {
    throw refuse(file, text("header of ", header_bytes, " bytes; at most ", kMaxHeaderBytes, " are read"),
                 "the file is damaged, or no safetensors file");
  }
  if (header_bytes > file_bytes - 8) {
    throw refuse(file, text("header of ", header_bytes, " bytes in a file of ", file_bytes));
  }
  std::string header(header_bytes, '\0');
  file.read_at(8, std::as_writable_bytes(std::span(header)));
  return header;
}

/// A JSON array of integers that are not negative.
std::optional<std::vector<std::int64_t>> integers_of(const Json* json) {
  if (json == nullptr || !json->is_array()) return std::nullopt;
  std::vector<std::int64_t> out;
  out.reserve(json->items().size());
  for (const Json& item : json->items()) {
    if (!item.is_integer() || item.integer() < 0) return std::nullopt;
    out.push_back(item.integer());
  }
  return out;
}

/// One entry of the header; its offset still counts from the data's first byte.
TensorInfo tensor_of(const File& file, const std::string& name, const Json& entry, std::uint64_t data_bytes) {
  if (!entry.is_object())
    throw refuse_tensor(file, name, text("its entry is of kind ", entry.kind(), "; an object is due"));
  const Json* dtype = entry.find("dtype");
  if (dtype == nullptr || !dtype->is_string()) throw refuse_tensor(file, name, "has no dtype");
  const std::optional<Storage> storage = storage_of_safetensors(dtype->string());
  if (!storage) {
    throw refuse_tensor(file, name, text("dtype ", dtype->string().substr(0, 40), " is not known"),
                        "known are F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL F8_E4M3 F8_E5M2 F8_E8M0");
  }
  std::optional<std::vector<std::int64_t>> shape = integers_of(entry.find("shape"));
  if (!shape) throw refuse_tensor(file, name, "its shape is no list of sizes");
  const auto offsets = integers_of(entry.find("data_offsets"));
  if (!offsets || offsets->size() != 2) throw refuse_tensor(file, name, "its data_offsets are no pair of offsets");
  const auto begin = static_cast<std::uint64_t>((*offsets)[0]);
  const auto end = static_cast<std::uint64_t>((*offsets)[1]);
  if (begin > end || end > data_bytes) {
    throw refuse_tensor(
        file, name, text("data_offsets ", begin, " to ", end, ", where the file has ", data_bytes, " bytes of data"));
  }
  const std::optional<std::uint64_t> bytes = bytes_of(*shape, *storage);
  if (!bytes) throw refuse_tensor(file, name, text("shape ", shape_text(*shape), " overflows"));
  if (*bytes != end - begin) {
    throw refuse_tensor(file, name,
                        text("shape ", shape_text(*shape), " of ", name_of(*storage), " takes ", *bytes,
                             " bytes, but data_offsets give it ", end - begin));
  }
  return {.name = name, .storage = *storage, .shape = std::move(*shape), .offset = begin, .bytes = *bytes};
}

/// Each tensor begins where the one before ends, as safetensors' own reader demands.
void check_coverage(const File& file, const std::vector<TensorInfo>& tensors, std::uint64_t data_bytes) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(tensors[a].offset, tensors[a].bytes) < std::pair(tensors[b].offset, tensors[b].bytes);
  });
  std::uint64_t covered = 0;
  const std::string* before = nullptr;
  for (const std::size_t i : order) {
    const TensorInfo& tensor = tensors[i];
    if (tensor.offset < covered) throw refuse_tensor(file, tensor.name, text("overlaps tensor ", *before));
    if (tensor.offset > covered) {
      throw refuse(file, text("bytes ", covered, " to ", tensor.offset, " of the data belong to no tensor"));
    }
    covered += tensor.bytes;
    before = &tensor.name;
  }
  if (covered != data_bytes) {
    throw refuse(file, text("bytes ", covered, " to ", data_bytes, " of the data belong to no tensor"));
  }
}

}  // namespace

std::vector<TensorInfo> read_safetensors_header(const File& file, int file_index) {
  const std::string header_text = read_header_text(file);
  const Json header = Json::parse(header_text, file.path().string() + ": header");
  if (!header.is_object()) throw refuse(file, text("its header is of kind ", header.kind(), "; an object is due"));
  const std::uint64_t data_begin = 8 + header_text.size();
  const std::uint64_t data_bytes = file.size() - data_begin;
  std::vector<TensorInfo> tensors;
  tensors.reserve(header.members().size());
  for (const auto& [name, entry] : header.members()) {
    if (name == "__metadata__") continue;
    tensors.push_back(tensor_of(file, name, entry, data_bytes));
  }
  check_coverage(file, tensors, data_bytes);
  for (TensorInfo& tensor : tensors) {
    tensor.file = file_index;
    tensor.offset += data_begin;
  }
  return tensors;
}

}  // namespace layerprobe::weights
