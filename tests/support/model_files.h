#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "tests/support/temp_folder.h"

namespace layerprobe::test {

/// The value's bytes, little-endian as on every machine we build for.
template <typename T>
std::string raw(T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
std::string raw(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

/// A safetensors file of this header and data.
inline std::string safetensors(const std::string& header, const std::string& data) {
  return raw(std::uint64_t{header.size()}) + header + data;
}

/// Builds a GGUF version 3 byte by byte; what it writes is public so that a test can make each part lie.
struct GgufBuilder {
  std::uint32_t version = 3;
  std::uint64_t num_values = 0;
  std::uint64_t num_tensors = 0;
  std::uint64_t alignment = 32;  // of the data; the key is written by the test where it is not the default
  std::string values;
  std::string infos;
  std::string data;

  static std::string string(std::string_view text) { return raw(std::uint64_t{text.size()}) + std::string(text); }

  GgufBuilder& value(std::string_view key, std::uint32_t type, const std::string& bytes) {
    values += string(key) + raw(type) + bytes;
    ++num_values;
    return *this;
  }
  GgufBuilder& u32(std::string_view key, std::uint32_t number) { return value(key, 4, raw(number)); }
  GgufBuilder& f32(std::string_view key, float number) { return value(key, 6, raw(number)); }
  GgufBuilder& text(std::string_view key, std::string_view words) { return value(key, 8, string(words)); }
  GgufBuilder& strings(std::string_view key, const std::vector<std::string>& items) {
    std::string bytes = raw(std::uint32_t{8}) + raw(std::uint64_t{items.size()});
    for (const std::string& item : items) bytes += string(item);
    return value(key, 9, bytes);
  }

  GgufBuilder& info(std::string_view name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
                    std::uint64_t offset) {
    infos += string(name) + raw(static_cast<std::uint32_t>(dims.size())) + raw(dims) + raw(type) + raw(offset);
    ++num_tensors;
    return *this;
  }
  /// A tensor whose `bytes` follow the data so far; `dims` with the fastest axis first.
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
                      const std::string& bytes) {
    pad(data);
    info(name, dims, type, data.size());
    data += bytes;
    return *this;
  }

  std::string bytes() const {
    std::string out = "GGUF" + raw(version) + raw(num_tensors) + raw(num_values) + values + infos;
    pad(out);
    return out + data;
  }

 private:
  void pad(std::string& text) const { text.resize((text.size() + alignment - 1) / alignment * alignment, '\0'); }
};

/// The keys of a one-layer model: hidden_size 4, 2 heads of 2 rows each, 1 key-value head, vocabulary of 3.
inline GgufBuilder small_gguf(const std::string& architecture = "llama") {
  GgufBuilder out;
  const std::string a = architecture + ".";
  out.text("general.architecture", architecture)
      .u32(a + "block_count", 1)
      .u32(a + "context_length", 16)
      .u32(a + "embedding_length", 4)
      .u32(a + "feed_forward_length", 6)
      .u32(a + "attention.head_count", 2)
      .u32(a + "attention.head_count_kv", 1)
      .f32(a + "attention.layer_norm_rms_epsilon", 1e-5f);
  return out;
}

}  // namespace layerprobe::test
