#include "cli/table.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <ostream>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace layerprobe::cli {
namespace {

bool continues(unsigned char byte) { return (byte & 0xc0u) == 0x80u; }

/// Bytes of the UTF-8 character that `text` begins with; 0 when it begins with none.
std::size_t character_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 && first < 0xf5 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 0;
  if (length == 0 || first >= 0xf5 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if (!continues(byte(i))) return 0;
  }
  if (first == 0xe0 && byte(1) < 0xa0) return 0;   // longer than need be
  if (first == 0xed && byte(1) >= 0xa0) return 0;  // a surrogate
  if (first == 0xf0 && byte(1) < 0x90) return 0;   // longer than need be
  if (first == 0xf4 && byte(1) >= 0x90) return 0;  // beyond U+10FFFF
  if (first == 0xc2 && byte(1) < 0xa0) return 0;   // a control character of 8 bits
  if (first == 0xe2 && (byte(1) == 0x80 && (byte(2) >= 0xa8 && byte(2) <= 0xae))) return 0;  // bidi, line separators
  if (first == 0xe2 && (byte(1) == 0x81 && (byte(2) >= 0xa6 && byte(2) <= 0xa9))) return 0;  // bidi isolates
  return length;
}

/// Characters, each taken to be one column wide.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !continues(static_cast<unsigned char>(c)); }));
}

std::string formatted(const char* format, double value) {
  if (std::isnan(value)) return "nan";  // printf knows -nan
  std::array<char, 64> out{};
  std::snprintf(out.data(), out.size(), format, value);
  return out.data();
}

}  // namespace

void Table::add_row(std::vector<std::string> cells) {
  expect(cells.size() == columns_.size(), "a row of a table has a cell for each column");
  for (std::string& cell : cells) cell = shortened(cell);
  rows_.push_back(std::move(cells));
}

std::ostream& operator<<(std::ostream& out, const Table& table) {
  std::vector<std::size_t> widths;
  std::vector<std::string> names;
  for (std::size_t c = 0; c < table.columns_.size(); ++c) {
    names.push_back(table.columns_[c].name);
    widths.push_back(width_of(names.back()));
    for (const std::vector<std::string>& row : table.rows_) widths[c] = std::max(widths[c], width_of(row[c]));
  }
  const auto write = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      const std::string padding(widths[c] - width_of(cells[c]), ' ');
      if (c != 0) line += "  ";
      line += table.columns_[c].align == Table::Align::right ? padding + cells[c] : cells[c] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << "\n";
  };
  write(names);
  for (const std::vector<std::string>& row : table.rows_) write(row);
  return out;
}

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto first = static_cast<unsigned char>(text.front());
    const std::size_t length = first < 0x20 || first == 0x7f ? 0 : character_bytes(text);
    if (length == 0) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      out += {'\\', 'x', kDigits[first >> 4], kDigits[first & 15]};
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out;
}

std::string shortened(std::string_view text) {
  constexpr std::size_t kMaxBytes = 2000;
  if (text.size() <= kMaxBytes) return printable(text);
  return printable(text.substr(0, kMaxBytes)) + "... (" + std::to_string(text.size()) + " bytes)";
}

std::string number_text(double value) {
  if (value == 0) return "0";
  if (std::isfinite(value) && std::fabs(value) >= 1000 && std::fabs(value) < 1e6) return formatted("%.0f", value);
  return formatted("%.3g", value);
}

std::string error_text(double value) {
  if (value == 0) return "0";
  return formatted("%.2e", value);
}

std::string fixed_text(double value, int decimals) {
  std::array<char, 64> out{};
  std::snprintf(out.data(), out.size(), "%.*f", decimals, value);
  return out.data();
}

std::string exact_text(double value) {
  std::array<char, 64> out{};
  const auto [end, problem] = std::to_chars(out.data(), out.data() + out.size(), value);
  expect(problem == std::errc{}, "a number's digits fit");
  return {out.data(), end};
}

}  // namespace layerprobe::cli
