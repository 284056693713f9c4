#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace layerprobe {

/// One JSON value. Objects keep the order of the text; a name that stands twice in one object is refused.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  Json() = default;  // null
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  Json(int value) : value_(std::int64_t{value}) {}
  Json(std::int64_t value) : value_(value) {}
  Json(std::uint64_t value) : value_(static_cast<std::int64_t>(value)) {}
  Json(double value) : value_(value) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(Array items) : value_(std::move(items)) {}
  Json(Object members) : value_(std::move(members)) {}

  /// Reads UTF-8 JSON text. Throws Error(input) with `where` (a file, or a file and what in it) and the position when
  /// it is no JSON, a name stands twice in one object, it is nested deeper than 100, or it is over 100 MB or 5 million
  /// values.
  static Json parse(std::string_view text, const std::string& where);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_boolean() const { return std::holds_alternative<bool>(value_); }
  bool is_integer() const { return std::holds_alternative<std::int64_t>(value_); }
  /// An integer or not.
  bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  /// "null", "boolean", "integer", "number", "string", "array" or "object", for messages.
  std::string_view kind() const;

  /// The value as that kind; an Error(bug) otherwise, so ask first.
  bool boolean() const;
  std::int64_t integer() const;
  double number() const;
  const std::string& string() const;
  const Array& items() const;
  const Object& members() const;

  /// The member of that name; nullptr when there is none or this is no object. Looks through all members: for large
  /// objects go over members() instead.
  const Json* find(std::string_view name) const;

  /// Adds a member at the end. This must be null or an object.
  void set(std::string name, Json value);
  /// Adds an item at the end. This must be null or an array.
  void push(Json value);

  /// JSON text: one line when `indent` is 0. A NaN or infinity, which JSON cannot say, becomes a string.
  std::string dump(int indent = 0) const;

 private:
  std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> value_;
};

}  // namespace layerprobe
