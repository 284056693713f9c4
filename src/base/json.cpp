#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe {
namespace {

constexpr std::size_t kMaxTextBytes = 100'000'000;
constexpr std::size_t kMaxDepth = 100;
constexpr std::size_t kMaxValues = 5'000'000;  // a value takes up to 100 bytes of memory, and as few as 2 of the text

/// Builds a Json from the parser's events, so that what is refused is refused before it takes memory.
class Builder {
 public:
  explicit Builder(const std::string& where) : where_(where) {}

  bool null() { return value(Json()); }
  bool boolean(bool given) { return value(Json(given)); }
  bool number_integer(std::int64_t given) { return value(Json(given)); }
  bool number_unsigned(std::uint64_t given) {
    return value(given > INT64_MAX ? Json(static_cast<double>(given)) : Json(static_cast<std::int64_t>(given)));
  }
  bool number_float(double given, const std::string&) { return value(Json(given)); }
  bool string(std::string& given) { return value(Json(std::move(given))); }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return open(Json(Json::Object{})); }
  bool start_array(std::size_t) { return open(Json(Json::Array{})); }
  bool key(std::string& name) {
    if (!is_new(name)) throw refuse(text("the name \"", name, "\" stands twice"));
    open_.back().name = std::move(name);
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) {
    throw refuse(text("not valid JSON at byte ", position));
  }

  Json result() { return std::move(root_); }

 private:
  struct Open {
    Json container;
    std::string name;  // of the member being read
    std::unordered_set<std::string> names;
  };

  /// A few members are looked through, more are hashed: a checkpoint's header has 100,000 objects of three.
  bool is_new(const std::string& name) {
    constexpr std::size_t kFewMembers = 16;
    const Json::Object& members = open_.back().container.members();
    if (members.size() < kFewMembers) {
      return std::none_of(members.begin(), members.end(), [&](const auto& member) { return member.first == name; });
    }
    std::unordered_set<std::string>& names = open_.back().names;
    if (names.empty()) {
      for (const auto& member : members) names.insert(member.first);
    }
    return names.insert(name).second;
  }

  Error refuse(std::string what) const {
    return Error({.kind = ErrorKind::input,
                  .where = where_,
                  .what = std::move(what),
                  .fix = "the file is damaged or was cut off; fetch it again"});
  }
  bool open(Json container) {
    if (open_.size() == kMaxDepth) throw refuse(text("nested deeper than ", kMaxDepth));
    open_.push_back({.container = std::move(container), .name = {}, .names = {}});
    return true;
  }
  bool close() {
    Json done = std::move(open_.back().container);
    open_.pop_back();
    return value(std::move(done));
  }
  bool value(Json given) {
    if (++num_values_ > kMaxValues) throw refuse(text("holds more than ", kMaxValues, " values"));
    if (open_.empty()) {
      root_ = std::move(given);
    } else if (open_.back().container.is_array()) {
      open_.back().container.push(std::move(given));
    } else {
      open_.back().container.set(std::move(open_.back().name), std::move(given));
    }
    return true;
  }

  const std::string& where_;
  Json root_;
  std::vector<Open> open_;
  std::size_t num_values_ = 0;
};

nlohmann::ordered_json converted(const Json& json) {
  if (json.is_boolean()) return json.boolean();
  if (json.is_integer()) return json.integer();
  if (json.is_number()) {
    const double number = json.number();
    if (std::isfinite(number)) return number;
    return std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
  }
  if (json.is_string()) return json.string();
  if (json.is_array()) {
    auto out = nlohmann::ordered_json::array();
    for (const Json& item : json.items()) out.push_back(converted(item));
    return out;
  }
  if (json.is_object()) {
    auto out = nlohmann::ordered_json::object();
    auto& members = out.get_ref<nlohmann::ordered_json::object_t&>();
    for (const auto& [name, member] : json.members()) {
      members.Container::emplace_back(name, converted(member));  // ordered_map's own looks through all members
    }
    return out;
  }
  return nullptr;
}

}  // namespace

Json Json::parse(std::string_view given, const std::string& where) {
  if (given.size() > kMaxTextBytes) {
    throw Error({.kind = ErrorKind::input,
                 .where = where,
                 .what = text("JSON of ", given.size(), " bytes; at most ", kMaxTextBytes, " are read"),
                 .fix = "the file is damaged, or no file of this kind"});
  }
  Builder builder(where);
  nlohmann::json::sax_parse(given.begin(), given.end(), &builder);
  return builder.result();
}

std::string_view Json::kind() const {
  static constexpr std::string_view kNames[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
  return kNames[value_.index()];
}

bool Json::boolean() const {
  expect(is_boolean(), "a boolean is asked for where there is one");
  return std::get<bool>(value_);
}
std::int64_t Json::integer() const {
  expect(is_integer(), "an integer is asked for where there is one");
  return std::get<std::int64_t>(value_);
}
double Json::number() const {
  expect(is_number(), "a number is asked for where there is one");
  return is_integer() ? static_cast<double>(std::get<std::int64_t>(value_)) : std::get<double>(value_);
}
const std::string& Json::string() const {
  expect(is_string(), "a string is asked for where there is one");
  return std::get<std::string>(value_);
}
const Json::Array& Json::items() const {
  expect(is_array(), "an array is asked for where there is one");
  return std::get<Array>(value_);
}
const Json::Object& Json::members() const {
  expect(is_object(), "an object is asked for where there is one");
  return std::get<Object>(value_);
}

const Json* Json::find(std::string_view name) const {
  if (!is_object()) return nullptr;
  for (const auto& [member_name, member] : members()) {
    if (member_name == name) return &member;
  }
  return nullptr;
}

void Json::set(std::string name, Json value) {
  if (is_null()) value_ = Object{};
  expect(is_object(), "a member is added to an object");
  std::get<Object>(value_).emplace_back(std::move(name), std::move(value));
}

void Json::push(Json value) {
  if (is_null()) value_ = Array{};
  expect(is_array(), "an item is added to an array");
  std::get<Array>(value_).push_back(std::move(value));
}

std::string Json::dump(int indent) const {
  const nlohmann::ordered_json out = converted(*this);
  return out.dump(indent == 0 ? -1 : indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace layerprobe
