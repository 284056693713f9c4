#include "tokenizer/byte_level.h"

#include <array>

#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char32_t, 256> kCharacters = [] {
  std::array<char32_t, 256> out{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    out[static_cast<std::size_t>(byte)] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return out;
}();

constexpr std::size_t kNumCharacters = 0x100 + 68;

constexpr std::array<int, kNumCharacters> kBytes = [] {  // -1 where there is none
  std::array<int, kNumCharacters> out{};
  for (int& byte : out) byte = -1;
  for (std::size_t byte = 0; byte < 256; ++byte) out[kCharacters[byte]] = static_cast<int>(byte);
  return out;
}();

}  // namespace

char32_t character_of(std::uint8_t byte) { return kCharacters[byte]; }

std::optional<std::string> bytes_of(std::string_view token) {
  std::string out;
  for (const char32_t c : decode_utf8(token)) {
    if (c >= kNumCharacters || kBytes[c] < 0) return std::nullopt;
    out.push_back(static_cast<char>(kBytes[c]));
  }
  return out;
}

}  // namespace layerprobe::tokenizer
