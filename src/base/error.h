#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace layerprobe {

/// What kind of failure it is. cli/exit_code.h turns it into the exit status; runtime/session.cpp looks for
/// `interrupted`, to say what was kept.
enum class ErrorKind {
  usage,        // the options ask for something impossible
  input,        // a file the user named is missing, damaged or of a kind we do not support
  resource,     // memory, disk space or a device is not enough
  device,       // a device or its library refused a call
  interrupted,  // the user asked it to stop
  bug,          // this program broke its own promise
};

/// A failure, told to the person who has to act on it.
///
/// `where` is a place in the user's world (file, tensor, layer, option, device), never a C++ line.
/// `what` is what was found and what was expected, with both values.
/// `fix` is one thing to do next, as a command where there is one. Empty only for `bug`.
class Error : public std::runtime_error {
 public:
  struct Parts {
    ErrorKind kind;
    std::string where;
    std::string what;
    std::string fix = {};
  };
  explicit Error(Parts parts);

  ErrorKind kind() const { return parts_.kind; }
  const Parts& parts() const { return parts_; }

  /// The same failure seen from further out: `where` becomes "<outer>: <where>".
  Error within(const std::string& outer) const;

 private:
  Parts parts_;
};

/// Of kind `input`.
inline Error bad_input(std::string where, std::string what, std::string fix) {
  return Error({.kind = ErrorKind::input, .where = std::move(where), .what = std::move(what), .fix = std::move(fix)});
}

/// Throws a `bug` error unless `holds`. For promises between our own functions; always on, in every build.
inline void expect(bool holds, const char* promise) {
  if (!holds) throw Error({.kind = ErrorKind::bug, .where = "internal", .what = promise});
}

}  // namespace layerprobe
