#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace layerprobe {

/// Bytes of "40GB", "75GiB", "512 MiB", "1.5e3 kB", "1024": GB is 10^9, GiB 2^30, lower case the same as upper case.
/// Throws Error(usage) naming `option` for anything else: no number, an unknown unit, negative, beyond 2^63.
std::uint64_t parse_bytes(std::string_view text, const std::string& option);

/// For people: "98.4 MB", "1.07 GB", "812 B" (decimal units, three digits).
std::string bytes_text(std::uint64_t bytes);

}  // namespace layerprobe
