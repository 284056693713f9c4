#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace layerprobe::model {

/// Reads the keys of one JSON object by kind and remembers which were asked for, so that the others can be told.
/// A key with the value null counts as absent. Every getter throws Error(input) "<where>: <key>: is <kind> ..." for a
/// value of another kind or outside its range.
class ConfigReader {
 public:
  /// `object` must outlive the reader. `where` names it in errors.
  ConfigReader(const Json& object, std::string where);

  /// nullptr when absent or null.
  const Json* find(std::string_view key);
  /// Is the key there, with the value null?
  bool is_null(std::string_view key);

  std::int64_t integer(std::string_view key, std::int64_t otherwise, std::int64_t least, std::int64_t most);
  double number(std::string_view key, double otherwise, double above);  // finite and > above
  std::optional<double> optional_number(std::string_view key);          // finite
  bool boolean(std::string_view key, bool otherwise);
  std::string string(std::string_view key, std::string_view otherwise);
  std::vector<double> numbers(std::string_view key);  // finite; empty when absent

  /// The members that nobody asked for, whose value is not null.
  std::vector<const std::pair<std::string, Json>*> unread() const;

  const std::string& where() const { return where_; }
  Error refuse(std::string_view key, std::string what, std::string fix = {}) const;

 private:
  Error wrong_kind(std::string_view key, const Json& value, std::string_view expected) const;

  const Json& object_;
  std::string where_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace layerprobe::model
