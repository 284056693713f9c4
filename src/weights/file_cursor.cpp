#include "weights/file_cursor.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::weights {
namespace {

constexpr std::size_t kBufferBytes = 256 * 1024;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // as of safetensors

Error cut_off(const File& file, std::string what) {
  return Error({.kind = ErrorKind::input,
                .where = file.path().string(),
                .what = std::move(what),
                .fix = "the file is damaged or was cut off; fetch it again"});
}

}  // namespace

FileCursor::FileCursor(const File& file, std::uint64_t offset)
    : file_(file), size_(file.size()), offset_(offset), buffer_begin_(offset), buffer_end_(offset) {
  expect(offset <= size_, "a cursor starts inside its file");
}

void FileCursor::fill(std::size_t bytes) {
  if (remaining() < bytes) {
    throw cut_off(file_, text("ends at byte ", size_, " in the middle of the header"));
  }
  expect_small(bytes);
  buffer_.resize(kBufferBytes);
  buffer_begin_ = offset_;
  buffer_end_ = offset_ + std::min<std::uint64_t>(kBufferBytes, remaining());
  file_.read_at(offset_, std::span(buffer_.data(), buffer_end_ - offset_));
}

std::string FileCursor::read_bytes(std::uint64_t bytes) {
  expect_room(bytes, 1, "bytes of a string");
  expect_small(bytes);
  std::string out(bytes, '\0');
  const std::uint64_t buffered = std::min(bytes, buffer_end_ - offset_);
  if (buffered != 0) std::memcpy(out.data(), buffer_.data() + (offset_ - buffer_begin_), buffered);
  if (buffered != bytes) {
    file_.read_at(offset_ + buffered, std::as_writable_bytes(std::span(out).subspan(buffered)));
  }
  skip(bytes);
  return out;
}

void FileCursor::skip(std::uint64_t bytes) {
  expect_room(bytes, 1, "bytes");
  expect_small(bytes);
  offset_ += bytes;
  if (offset_ > buffer_end_) buffer_begin_ = buffer_end_ = offset_;
}

void FileCursor::expect_small(std::uint64_t bytes) const {
  if (offset_ <= kMaxHeaderBytes && bytes <= kMaxHeaderBytes - offset_) return;
  throw cut_off(file_, text("header of more than ", kMaxHeaderBytes, " bytes, which are the most that are read"));
}

void FileCursor::expect_room(std::uint64_t count, std::uint64_t item_bytes, const char* what) const {
  if (count <= remaining() / item_bytes) return;
  throw cut_off(file_, text("says that ", count, " ", what, " follow byte ", offset_, ", where ", remaining(),
                            " bytes are left"));
}

}  // namespace layerprobe::weights
