#include "model/config_reader.h"

#include <cmath>
#include <utility>

#include "base/text.h"

namespace layerprobe::model {

ConfigReader::ConfigReader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) {
    throw Error({.kind = ErrorKind::input,
                 .where = where_,
                 .what = text("is ", object.kind(), " where an object is expected"),
                 .fix = "fetch the model's config.json again"});
  }
}

const Json* ConfigReader::find(std::string_view key) {
  read_.emplace(key);
  const Json* value = object_.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool ConfigReader::is_null(std::string_view key) {
  const Json* value = object_.find(key);
  return value != nullptr && value->is_null();
}

std::int64_t ConfigReader::integer(std::string_view key, std::int64_t otherwise, std::int64_t least,
                                   std::int64_t most) {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  std::int64_t number = 0;
  if (value->is_integer()) {
    number = value->integer();
  } else if (value->is_number() && std::floor(value->number()) == value->number() &&
             std::abs(value->number()) < 0x1p53) {
    number = static_cast<std::int64_t>(value->number());  // 4096.0
  } else {
    throw wrong_kind(key, *value, "an integer");
  }
  if (number < least || number > most) {
    throw refuse(key, text("is ", number, "; expected ", least, " to ", most));
  }
  return number;
}

double ConfigReader::number(std::string_view key, double otherwise, double above) {
  const std::optional<double> value = optional_number(key);
  if (!value) return otherwise;
  if (!(*value > above)) throw refuse(key, text("is ", *value, "; expected more than ", above));
  return *value;
}

std::optional<double> ConfigReader::optional_number(std::string_view key) {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->number())) throw wrong_kind(key, *value, "a number");
  return value->number();
}

bool ConfigReader::boolean(std::string_view key, bool otherwise) {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) throw wrong_kind(key, *value, "true or false");
  return value->boolean();
}

std::string ConfigReader::string(std::string_view key, std::string_view otherwise) {
  const Json* value = find(key);
  if (value == nullptr) return std::string(otherwise);
  if (!value->is_string()) throw wrong_kind(key, *value, "a string");
  return value->string();
}

std::vector<double> ConfigReader::numbers(std::string_view key) {
  const Json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) throw wrong_kind(key, *value, "an array of numbers");
  std::vector<double> out;
  for (const Json& item : value->items()) {
    if (!item.is_number() || !std::isfinite(item.number())) throw wrong_kind(key, item, "an array of numbers");
    out.push_back(item.number());
  }
  return out;
}

std::vector<const std::pair<std::string, Json>*> ConfigReader::unread() const {
  std::vector<const std::pair<std::string, Json>*> out;
  for (const auto& member : object_.members()) {
    if (!member.second.is_null() && !read_.contains(member.first)) out.push_back(&member);
  }
  return out;
}

Error ConfigReader::refuse(std::string_view key, std::string what, std::string fix) const {
  return Error({.kind = ErrorKind::input,
                .where = text(where_, ": ", key),
                .what = std::move(what),
                .fix = fix.empty() ? "check the model's config.json; fetch it again if it was not edited on purpose"
                                   : std::move(fix)});
}

Error ConfigReader::wrong_kind(std::string_view key, const Json& value, std::string_view expected) const {
  return refuse(key, text("is ", value.kind(), " (", value.dump().substr(0, 60), ") where ", expected, " is expected"));
}

}  // namespace layerprobe::model
