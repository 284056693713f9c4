#include "tests/fuzz/hdf5_blocks.h"

#include <cstdint>
#include <cstring>
#include <utility>

#include "store/hdf5_blocks.h"

namespace layerprobe::fuzz {
namespace {

constexpr std::size_t kChecksumBytes = 4;

template <typename T>
T value_at(std::string_view file, std::size_t at) {
  T value{};
  if (at <= file.size() && sizeof value <= file.size() - at) std::memcpy(&value, file.data() + at, sizeof value);
  return value;
}

std::uint32_t checksum_of(std::string_view file, const Hdf5Block& block) {
  std::string bytes(file.substr(block.begin, block.end - block.begin));
  if (block.checksum_at < block.end) std::memset(&bytes[block.checksum_at - block.begin], 0, kChecksumBytes);
  return store::hdf5::checksum_of(bytes);
}

class Finder {
 public:
  explicit Finder(std::string_view file) : file_(file) {}

  void find_all() {
    if (file_.starts_with("\x89HDF\r\n\x1a\n")) add_ending(0, 44);
    each("OHDR", [this](std::size_t at) { object_header(at); });
    each("FRHP", [this](std::size_t at) { add_ending(at, 142); });
    each("FHDB", [this](std::size_t at) { direct_block(at); });
    each("BTHD", [this](std::size_t at) {
      if (add_ending(at, 34)) record_bytes_.push_back(value_at<std::uint16_t>(file_, at + 10));
    });
    each("BTLF", [this](std::size_t at) { leaf(at); });
  }

  std::vector<Hdf5Block> found;

 private:
  template <typename Function>
  void each(std::string_view signature, Function function) {
    for (std::size_t at = 0; (at = file_.find(signature, at)) != file_.npos; ++at) function(at);
  }

  bool add(const Hdf5Block& block) {
    const bool is_inside =
        block.end <= file_.size() && block.begin < block.end && block.checksum_at + kChecksumBytes <= file_.size();
    if (!is_inside || checksum_of(file_, block) != value_at<std::uint32_t>(file_, block.checksum_at)) return false;
    found.push_back(block);
    return true;
  }
  bool add_ending(std::size_t begin, std::size_t size) {
    return add({.begin = begin, .end = begin + size, .checksum_at = begin + size});
  }

  void object_header(std::size_t at) {
    const auto flags = value_at<std::uint8_t>(file_, at + 5);
    std::size_t size_at = at + 6 + ((flags & 0x20) != 0 ? 16 : 0) + ((flags & 0x10) != 0 ? 4 : 0);
    const std::size_t size_bytes = std::size_t{1} << (flags & 3);
    const std::uint64_t mask = size_bytes == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << 8 * size_bytes) - 1;
    const std::uint64_t size = value_at<std::uint64_t>(file_, size_at) & mask;
    const std::size_t messages = size_at + size_bytes;
    if (size > file_.size() || !add_ending(at, messages + size - at)) return;
    continuations(messages, messages + size, (flags & 4) != 0 ? 6 : 4);
  }

  /// The continuation blocks that the messages in [at, end) name, and those that these name.
  void continuations(std::size_t at, std::size_t end, std::size_t header_bytes) {
    constexpr std::uint8_t kContinuation = 16;
    for (; at + header_bytes <= end; at += header_bytes + value_at<std::uint16_t>(file_, at + 1)) {
      if (value_at<std::uint8_t>(file_, at) != kContinuation) continue;
      const auto offset = value_at<std::uint64_t>(file_, at + header_bytes);
      const auto size = value_at<std::uint64_t>(file_, at + header_bytes + 8);
      if (offset > file_.size() || size > file_.size() || size < 2 * kChecksumBytes || found.size() > 10'000) continue;
      if (add_ending(offset, size - kChecksumBytes)) continuations(offset + 4, offset + size - 4, header_bytes);
    }
  }

  void direct_block(std::size_t at) {
    for (const std::size_t offset_bytes : {4, 5}) {  // of links, of attributes
      for (std::size_t size = 512; size <= 65536; size *= 2) {
        if (add({.begin = at, .end = at + size, .checksum_at = at + 13 + offset_bytes})) return;
      }
    }
  }

  void leaf(std::size_t at) {
    for (const std::size_t bytes : record_bytes_) {
      for (std::size_t size = 6 + bytes; bytes > 0 && size <= 4096; size += bytes) {
        if (add_ending(at, size)) return;
      }
    }
  }

  std::string_view file_;
  std::vector<std::size_t> record_bytes_;  // of the B-trees
};

}  // namespace

std::vector<Hdf5Block> hdf5_blocks_of(std::string_view file) {
  Finder finder(file);
  finder.find_all();
  return std::move(finder.found);
}

void set_checksum(std::string& file, const Hdf5Block& block) {
  const std::uint32_t checksum = checksum_of(file, block);
  std::memcpy(&file[block.checksum_at], &checksum, sizeof checksum);
}

}  // namespace layerprobe::fuzz
