#include "check/item.h"

#include <utility>

#include "base/text.h"

namespace layerprobe::check {

std::string_view name_of(Status status) {
  switch (status) {
    case Status::pass:
      return "pass";
    case Status::warn:
      return "warn";
    case Status::fail:
      return "fail";
    case Status::skip:
      return "skip";
  }
  return {};
}

Item failed(std::string name, const Error& error, std::string expected) {
  const Error::Parts& parts = error.parts();
  return {.name = std::move(name),
          .status = Status::fail,
          .measured = parts.where.empty() ? parts.what : text(parts.where, ": ", parts.what),
          .expected = std::move(expected),
          .advice = parts.fix};
}

}  // namespace layerprobe::check
