#include "store/hdf5_blocks.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::store::hdf5 {
namespace {

constexpr std::size_t kChecksumBytes = 4;

Error damaged(std::string where, std::string what) {
  return Error({.kind = ErrorKind::input,
                .where = std::move(where),
                .what = std::move(what),
                .fix = "the file is damaged, or no file of layerprobe's; make or fetch it again"});
}

std::uint32_t checksum_at(std::string_view bytes, std::size_t at) {
  std::uint32_t checksum = 0;
  std::memcpy(&checksum, bytes.data() + at, kChecksumBytes);
  return checksum;
}

}  // namespace

std::uint32_t checksum_of(std::string_view bytes) {
  std::uint32_t a = 0xdeadbeef + static_cast<std::uint32_t>(bytes.size());
  std::uint32_t b = a, c = a;
  const auto add = [&](std::string_view twelve) {
    std::uint32_t words[3] = {};
    std::memcpy(words, twelve.data(), twelve.size());
    a += words[0];
    b += words[1];
    c += words[2];
  };
  if (bytes.empty()) return c;
  for (; bytes.size() > 12; bytes.remove_prefix(12)) {
    add(bytes.substr(0, 12));
    a = (a - c) ^ std::rotl(c, 4), c += b;
    b = (b - a) ^ std::rotl(a, 6), a += c;
    c = (c - b) ^ std::rotl(b, 8), b += a;
    a = (a - c) ^ std::rotl(c, 16), c += b;
    b = (b - a) ^ std::rotl(a, 19), a += c;
    c = (c - b) ^ std::rotl(b, 4), b += a;
  }
  add(bytes);
  c = (c ^ b) - std::rotl(b, 14);
  a = (a ^ c) - std::rotl(c, 11);
  b = (b ^ a) - std::rotl(a, 25);
  c = (c ^ b) - std::rotl(b, 16);
  a = (a ^ c) - std::rotl(c, 4);
  b = (b ^ a) - std::rotl(a, 14);
  c = (c ^ b) - std::rotl(b, 24);
  return c;
}

std::size_t bytes_for(std::uint64_t most) {
  return std::max<std::size_t>(1, (static_cast<std::size_t>(std::bit_width(most)) + 7) / 8);
}

std::uint64_t Fields::integer(std::size_t bytes) {
  expect(bytes <= 8, "an integer of HDF5 has at most 8 bytes");
  if (bytes > left()) refuse("ends too early");
  std::uint64_t value = 0;
  std::memcpy(&value, bytes_.data() + at_, bytes);
  at_ += bytes;
  return value;
}

std::string Fields::text(std::uint64_t bytes) {
  if (bytes > left()) refuse("ends too early");
  std::string out = bytes_.substr(at_, bytes);
  at_ += bytes;
  return out;
}

void Fields::skip(std::uint64_t bytes) {
  if (bytes > left()) refuse("ends too early");
  at_ += bytes;
}

void Fields::refuse(std::string what) const { throw damaged(where_, std::move(what)); }

void Fields::expect_version(unsigned version, const char* what) {
  const unsigned found = byte();
  if (found != version) refuse(layerprobe::text("its ", what, " has version ", found, "; ", version, " is read"));
}

std::string Blocks::where(const char* what, std::uint64_t address) const {
  return text(file_.path().string(), ": ", what, " at byte ", address);
}

std::string Blocks::plain(std::uint64_t address, std::uint64_t bytes, const char* what) {
  if (address > file_bytes_ || bytes > file_bytes_ - address) {
    throw damaged(where(what, address), text("of ", bytes, " bytes in a file of ", file_bytes_));
  }
  if (bytes > budget_) throw damaged(where(what, address), "is one of those that are referred to again and again");
  budget_ -= bytes;
  std::string out(bytes, '\0');
  file_.read_at(address, std::as_writable_bytes(std::span(out)));
  return out;
}

Fields Blocks::peek(std::uint64_t address, std::uint64_t bytes, const char* what) {
  const std::uint64_t there = file_bytes_ - std::min(address, file_bytes_);
  return Fields(plain(address, std::min(bytes, there), what), where(what, address));
}

Fields Blocks::block(std::uint64_t address, std::uint64_t bytes, std::string_view signature, const char* what) {
  if (bytes < signature.size() + kChecksumBytes) throw damaged(where(what, address), text("is of ", bytes, " bytes"));
  std::string block = plain(address, bytes, what);
  if (!block.starts_with(signature)) throw damaged(where(what, address), "is not there: its first bytes are others");
  const std::size_t end = block.size() - kChecksumBytes;
  if (checksum_of(std::string_view(block).substr(0, end)) != checksum_at(block, end)) {
    throw damaged(where(what, address), "has a wrong checksum");
  }
  block.resize(end);
  return Fields(block.substr(signature.size()), where(what, address));
}

std::string Blocks::checked_inside(std::uint64_t address, std::uint64_t bytes, std::size_t checksum_offset,
                                   const char* what) {
  if (checksum_offset > bytes || kChecksumBytes > bytes - checksum_offset) {
    throw damaged(where(what, address), text("is of ", bytes, " bytes"));
  }
  std::string block = plain(address, bytes, what);
  const std::uint32_t wanted = checksum_at(block, checksum_offset);
  block.replace(checksum_offset, kChecksumBytes, kChecksumBytes, '\0');
  if (checksum_of(block) != wanted) throw damaged(where(what, address), "has a wrong checksum");
  return block;
}

}  // namespace layerprobe::store::hdf5
