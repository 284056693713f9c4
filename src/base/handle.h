#pragma once

#include <utility>

namespace layerprobe {

/// Owns one handle of a C library and gives it back exactly once. Moves, never copies.
///
/// The destructor drops what `close` returns: it runs while unwinding, where nobody can act on it.
/// A writer whose closing can lose data has a finish() that its success path calls (see store/writer.h).
template <typename T, auto close, T none = T{}>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, none)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Handle() {
    if (value_ != none) close(value_);
  }

  T get() const { return value_; }
  /// Where a C function writes the new handle: `dnnl_engine_create(engine.out(), ...)`. The handle must be empty.
  T* out() { return &value_; }
  /// Hands the value over; the caller closes it.
  T release() { return std::exchange(value_, none); }

 private:
  T value_ = none;
};

}  // namespace layerprobe
