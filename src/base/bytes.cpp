#include "base/bytes.h"

#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe {

std::uint64_t parse_bytes(std::string_view given, const std::string& option) {
  const auto refuse = [&](const char* why) {
    return Error({.kind = ErrorKind::usage,
                  .where = option,
                  .what = text("\"", given, "\" is not a size: ", why),
                  .fix = "write a number and a unit, as 40GB (10^9 bytes) or 75GiB (2^30 bytes)"});
  };
  const std::string_view size = trimmed(given);
  double number = 0;
  const auto [end, problem] = std::from_chars(size.data(), size.data() + size.size(), number);
  if (problem != std::errc{}) throw refuse("it does not begin with a number");
  std::string unit(trimmed(std::string_view(end, static_cast<std::size_t>(size.data() + size.size() - end))));
  for (char& letter : unit) letter = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
  static constexpr std::array<std::pair<std::string_view, double>, 11> kUnits = {{{"", 1},
                                                                                  {"B", 1},
                                                                                  {"KB", 1e3},
                                                                                  {"MB", 1e6},
                                                                                  {"GB", 1e9},
                                                                                  {"TB", 1e12},
                                                                                  {"KIB", 0x1p10},
                                                                                  {"MIB", 0x1p20},
                                                                                  {"GIB", 0x1p30},
                                                                                  {"TIB", 0x1p40},
                                                                                  {"PB", 1e15}}};
  for (const auto& [name, factor] : kUnits) {
    if (unit != name) continue;
    const double bytes = number * factor;
    if (!(bytes >= 0)) throw refuse("it is negative or not a number");
    if (bytes >= 0x1p63) throw refuse("it is beyond 2^63 bytes");
    return static_cast<std::uint64_t>(std::floor(bytes));
  }
  throw refuse("the unit is none of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB");
}

std::string bytes_text(std::uint64_t bytes) {
  static constexpr std::array<const char*, 6> kUnits = {"B", "kB", "MB", "GB", "TB", "PB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  std::array<char, 32> out{};
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  std::snprintf(out.data(), out.size(), "%.*f %s", decimals, value, kUnits[unit]);
  return out.data();
}

}  // namespace layerprobe
