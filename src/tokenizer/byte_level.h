#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace layerprobe::tokenizer {

/// The printable character that stands for a byte in byte-level vocabularies: 0x21 to 0x7E, 0xA1 to 0xAC and 0xAE to
/// 0xFF themselves, the 68 others U+0100, U+0101, ... in order. Source: bytes_to_unicode() of GPT-2's encoder.py.
char32_t character_of(std::uint8_t byte);

/// The bytes that a token of such a vocabulary (UTF-8) stands for; nothing when a character of it stands for no byte.
std::optional<std::string> bytes_of(std::string_view token);

}  // namespace layerprobe::tokenizer
