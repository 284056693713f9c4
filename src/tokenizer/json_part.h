#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace layerprobe::tokenizer {

/// One object of tokenizer.json, with its place in the file ("pre_tokenizer.pretokenizers[1]"), read strictly: each
/// call throws Error(input) naming the place when the member is missing or of another kind.
class JsonPart {
 public:
  /// Throws unless `json` is an object. It is referred to as long as this lives. `separator` stands between `where` and
  /// a member's name.
  JsonPart(const Json& json, std::string where, std::string_view separator = ": ");

  const std::string& where() const { return where_; }
  /// Throws when there is a member of another name: it may change the ids.
  void allow_only(std::initializer_list<std::string_view> names) const;

  /// nullptr when it is missing or null.
  const Json* find(std::string_view name) const;
  bool boolean(std::string_view name, std::optional<bool> if_missing = {}) const;
  std::int64_t integer(std::string_view name) const;
  const std::string& string(std::string_view name) const;
  JsonPart object(std::string_view name) const;
  const Json::Array& array(std::string_view name) const;
  /// The objects of an array.
  std::vector<JsonPart> objects(std::string_view name) const;

  /// Throws "<where>: <name>: is <what>", for members with a wrong value.
  [[noreturn]] void refuse(std::string_view name, const std::string& what) const;

 private:
  const Json& member(std::string_view name, bool (Json::*is_kind)() const, const char* kind) const;
  std::string where_of(std::string_view name) const;

  const Json& json_;
  std::string where_;
  std::string_view separator_;
};

}  // namespace layerprobe::tokenizer
