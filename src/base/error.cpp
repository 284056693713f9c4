#include "base/error.h"

#include <utility>

namespace layerprobe {
namespace {

std::string message(const Error::Parts& parts) {
  std::string text = parts.where.empty() ? parts.what : parts.where + ": " + parts.what;
  if (!parts.fix.empty()) text += "\n  help: " + parts.fix;
  return text;
}

}  // namespace

Error::Error(Parts parts) : std::runtime_error(message(parts)), parts_(std::move(parts)) {}

Error Error::within(const std::string& outer) const {
  Parts parts = parts_;
  parts.where = parts.where.empty() ? outer : outer + ": " + parts.where;
  return Error(std::move(parts));
}

}  // namespace layerprobe
