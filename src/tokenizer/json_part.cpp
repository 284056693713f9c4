#include "tokenizer/json_part.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::tokenizer {

JsonPart::JsonPart(const Json& json, std::string where, std::string_view separator)
    : json_(json), where_(std::move(where)), separator_(separator) {
  if (!json_.is_object()) {
    throw Error({.kind = ErrorKind::input,
                 .where = where_,
                 .what = text("is of kind ", json_.kind(), " where an object is expected"),
                 .fix = "the file is damaged, or no tokenizer.json; fetch it again"});
  }
}

void JsonPart::allow_only(std::initializer_list<std::string_view> names) const {
  for (const auto& [name, value] : json_.members()) {
    if (std::find(names.begin(), names.end(), name) == names.end()) refuse(name, "not known here");
  }
}

const Json* JsonPart::find(std::string_view name) const {
  const Json* found = json_.find(name);
  return found == nullptr || found->is_null() ? nullptr : found;
}

bool JsonPart::boolean(std::string_view name, std::optional<bool> if_missing) const {
  if (if_missing && json_.find(name) == nullptr) return *if_missing;
  return member(name, &Json::is_boolean, "a boolean").boolean();
}

std::int64_t JsonPart::integer(std::string_view name) const {
  return member(name, &Json::is_integer, "an integer").integer();
}

const std::string& JsonPart::string(std::string_view name) const {
  return member(name, &Json::is_string, "a string").string();
}

JsonPart JsonPart::object(std::string_view name) const {
  return JsonPart(member(name, &Json::is_object, "an object"), where_of(name), ".");
}

const Json::Array& JsonPart::array(std::string_view name) const {
  return member(name, &Json::is_array, "an array").items();
}

std::vector<JsonPart> JsonPart::objects(std::string_view name) const {
  std::vector<JsonPart> out;
  const Json::Array& items = array(name);
  for (std::size_t i = 0; i < items.size(); ++i) out.emplace_back(items[i], text(where_of(name), "[", i, "]"), ".");
  return out;
}

void JsonPart::refuse(std::string_view name, const std::string& what) const {
  throw Error({.kind = ErrorKind::input,
               .where = where_of(name),
               .what = "is " + what,
               .fix = "give token ids (--input-ids) instead of text, or another checkpoint of the model"});
}

std::string JsonPart::where_of(std::string_view name) const { return text(where_, separator_, name); }

const Json& JsonPart::member(std::string_view name, bool (Json::*is_kind)() const, const char* kind) const {
  const Json* found = json_.find(name);
  if (found == nullptr) refuse(name, text("missing; ", kind, " is expected"));
  if (!(found->*is_kind)()) refuse(name, text("of kind ", found->kind(), " where ", kind, " is expected"));
  return *found;
}

}  // namespace layerprobe::tokenizer
