#pragma once

#include <cstddef>
#include <cstdint>

#include "device/ops.h"

namespace layerprobe::device::cpu {

constexpr std::int64_t kAlignment = 64;

constexpr std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

/// As Ops::allocate. `alignment` is a power of two.
Buffer allocate_bytes(std::size_t bytes, std::size_t alignment = kAlignment);
/// As Ops::free_bytes: what the kernel says programs can have without swapping (MemAvailable); the largest number
/// where it says nothing (no /proc).
std::uint64_t available_bytes();

/// Memory that a call needs while it runs; kept for the next call, and only ever grows.
class Scratch {
 public:
  void* reserve(std::int64_t bytes) {
    if (buffer_.bytes() < static_cast<std::size_t>(bytes)) {
      buffer_ = Buffer();  // given back first: the two are not needed at once
      buffer_ = allocate_bytes(static_cast<std::size_t>(bytes));
    }
    return buffer_.data();
  }

 private:
  Buffer buffer_;
};

}  // namespace layerprobe::device::cpu
