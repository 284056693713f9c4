#include "placement/max_memory.h"

#include <algorithm>
#include <cctype>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
#include "base/text.h"

namespace layerprobe::placement {
namespace {

constexpr const char* kOption = "--max-memory";
constexpr const char* kForms =
    "write 40GB (each GPU), 75GiB,40GiB (in order), 0:60GB,1:40GB,cpu:200GB, or {\"cuda:0\": \"10GB\", \"cpu\": "
    "\"64GiB\"}";

Error refuse(std::string what) {
  return Error({.kind = ErrorKind::usage, .where = kOption, .what = std::move(what), .fix = kForms});
}

void add(MaxMemory& out, std::string_view key, std::uint64_t bytes) {
  if (key == "disk") return;
  if (key == "cpu") {
    if (out.host) throw refuse("cpu stands in it twice");
    out.host = bytes;
    return;
  }
  const std::optional<Device> device = find_device(key);
  if (!device) throw refuse(text("\"", key, "\" is no device: 0, cuda:0, cpu and disk are"));
  if (!out.devices.emplace(*device, bytes).second) throw refuse(text(name_of(*device), " stands in it twice"));
}

void add_json(MaxMemory& out, std::string_view given) {
  Json json;
  try {
    json = Json::parse(given, kOption);
  } catch (const Error& error) {  // what was typed is no file
    throw refuse(error.parts().what);
  }
  for (const auto& [key, value] : json.members()) {
    if (value.is_integer() && value.integer() >= 0) {
      add(out, key, static_cast<std::uint64_t>(value.integer()));
    } else if (value.is_string()) {
      add(out, key, parse_limit(value.string(), kOption));
    } else {
      throw refuse(text("\"", key, "\" is ", value.dump().substr(0, 60), " where a size is expected"));
    }
  }
}

}  // namespace

std::uint64_t parse_limit(std::string_view given, const std::string& option) {
  const std::uint64_t bytes = parse_bytes(given, option);
  const bool has_unit = std::isalpha(static_cast<unsigned char>(trimmed(given).back())) != 0;
  if (has_unit || bytes == 0) return bytes;
  throw Error({.kind = ErrorKind::usage,
               .where = option,
               .what = text("\"", given, "\" has no unit"),
               .fix = "write for instance 80GB (10^9 bytes) or 80GiB (2^30 bytes)"});
}

MaxMemory parse_max_memory(std::string_view given) {
  MaxMemory out;
  given = trimmed(given);
  if (given.empty()) return out;
  if (given.starts_with("{")) {
    add_json(out, given);
    return out;
  }
  for (const std::string& piece : split(given, ',')) {
    const std::size_t colon = piece.rfind(':');
    if (colon == std::string::npos) {
      out.in_order.push_back(parse_limit(piece, kOption));
    } else {
      add(out, trimmed(std::string_view(piece).substr(0, colon)),
          parse_limit(std::string_view(piece).substr(colon + 1), kOption));
    }
  }
  if (!out.in_order.empty() && !out.devices.empty()) {
    throw refuse("has sizes with and without a device's name");
  }
  if (out.in_order.size() == 1) {
    out.each = out.in_order.front();
    out.in_order.clear();
  }
  return out;
}

}  // namespace layerprobe::placement
