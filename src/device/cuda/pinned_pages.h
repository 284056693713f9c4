#pragma once

#include <cstddef>

namespace layerprobe::device::cuda {

/// Memory of the host that every GPU copies from and to by itself, and that files are read into past the page cache:
/// whole pages, the large ones where the system has them. Any thread makes it, several at once: its pages are touched
/// by the thread that does.
class PinnedPages {
 public:
  /// Throws Error(resource) when the system does not give or pin so much.
  explicit PinnedPages(std::size_t bytes);
  ~PinnedPages();
  PinnedPages(const PinnedPages&) = delete;
  PinnedPages& operator=(const PinnedPages&) = delete;

  std::byte* data() const { return data_; }

 private:
  void* mapping_;
  std::size_t mapping_bytes_;
  std::byte* data_ = nullptr;
};

}  // namespace layerprobe::device::cuda
