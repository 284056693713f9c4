#pragma once

#include <cstdint>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace layerprobe {

/// Joins its arguments as operator<< would: text("weight is ", 7). g++ 12 has no <format>.
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

/// "[14336, 4096]"
std::string shape_text(std::span<const std::int64_t> shape);

/// `items` with `separator` between them.
std::string join(std::span<const std::string> items, std::string_view separator);

/// The first `most` of `items` and how many there are beside: "a, b and 7 more".
std::string listed(std::span<const std::string> items, std::size_t most);

/// `text` cut at every `separator`; "" gives one empty piece.
std::vector<std::string> split(std::string_view text, char separator);

/// `text` with `by` wherever `what` stands, which is not empty.
std::string replaced(std::string_view text, std::string_view what, std::string_view by);

/// `text` without leading and trailing spaces and tabs.
std::string_view trimmed(std::string_view text);

/// Whether `bytes` are valid UTF-8: no overlong form, no surrogate, nothing above U+10FFFF.
bool is_utf8(std::string_view bytes);

/// Up to `count` of `candidates` that `name` may have been meant to be, best first: a small edit distance, or one
/// contained in the other.
std::vector<std::string> nearest_names(std::string_view name, std::span<const std::string> candidates,
                                       std::size_t count = 3);

}  // namespace layerprobe
