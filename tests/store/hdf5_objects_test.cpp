#include "store/hdf5_objects.h"

#include <doctest/doctest.h>

#include <cstring>
#include <functional>

#include "base/error.h"
#include "store/hdf5.h"
#include "tests/store/sample.h"

namespace layerprobe {
namespace {

namespace hdf5 = store::hdf5;

/// A file as HDF5 itself makes it, with the bounds of store/format.h.
class Made {
 public:
  explicit Made(const std::function<void(hid_t file)>& fill, H5F_libver_t low = H5F_LIBVER_V18) {
    const hdf5::Properties access(H5Pcreate(H5P_FILE_ACCESS));
    H5Pset_libver_bounds(access.get(), low, H5F_LIBVER_V110);
    const hdf5::Properties creation(H5Pcreate(H5P_FILE_CREATE));
    H5Pset_obj_track_times(creation.get(), false);
    const hdf5::File made(H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()));
    REQUIRE(made.get() >= 0);
    fill(made.get());
  }

  hdf5::Object root() const {
    const File file = File::open_for_reading(path_);
    hdf5::Blocks blocks(file);
    return hdf5::object_at(blocks, hdf5::root_address(blocks), true);
  }
  std::string bytes() const { return test::read_all(path_); }
  void replace(const std::string& bytes) const { test::write_all(path_, bytes); }
  std::string message() const {
    try {
      root();
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::input);
      return error.what();
    }
    return "no error";
  }

 private:
  test::TempFolder folder_;
  std::filesystem::path path_ = folder_ / "made.h5";
};

void add_groups(hid_t file, int count, std::size_t name_bytes) {
  for (int i = 0; i < count; ++i) {
    const std::string name = text(i, std::string(name_bytes, '.'));
    const hdf5::Group group(H5Gcreate2(file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    REQUIRE(group.get() >= 0);
  }
}

void add_attribute(hid_t object, const std::string& name, const std::string& value) {
  const hdf5::Type type = hdf5::string_type(value.size());
  const hdf5::Space space(H5Screate(H5S_SCALAR));
  const hdf5::Attribute attribute(H5Acreate2(object, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT));
  REQUIRE(H5Awrite(attribute.get(), type.get(), value.data()) >= 0);
}

/// Puts `value` at `at` of the piece that begins with `signature`, whose checksum lies `size` bytes behind its begin.
std::string changed(std::string file, std::string_view signature, std::size_t size, std::size_t at,
                    std::string_view value) {
  const std::size_t begin = file.find(signature);
  REQUIRE(begin != std::string::npos);
  file.replace(begin + at, value.size(), value);
  const std::uint32_t checksum = hdf5::checksum_of(std::string_view(file).substr(begin, size));
  std::memcpy(&file[begin + size], &checksum, sizeof checksum);
  return file;
}

}  // namespace

TEST_CASE("all links of a group are found, few, many, and many with long names") {
  for (const int count : {0, 1, 8, 9, 46, 700, 3000}) {
    for (const std::size_t name_bytes : {1, 200}) {
      CAPTURE(count);
      CAPTURE(name_bytes);
      const Made made([&](hid_t file) { add_groups(file, count, name_bytes); });
      const hdf5::Object root = made.root();
      REQUIRE(root.links.has_value());
      CHECK(root.links->size() == static_cast<std::size_t>(count));
      for (int i = 0; i < count; ++i) {
        const auto link = root.links->find(text(i, std::string(name_bytes, '.')));
        REQUIRE(link != root.links->end());
        CHECK(link->second.is_hard);
      }
    }
  }
}

TEST_CASE("all attributes are found, few, many, and longer than a heap's blocks") {
  for (const int count : {1, 8, 9, 300}) {
    for (const std::size_t bytes : {1, 5'000, 60'000}) {
      if (bytes == 60'000 && count == 8) continue;
      CAPTURE(count);
      CAPTURE(bytes);
      const Made made([&](hid_t file) {
        for (int i = 0; i < count; ++i) add_attribute(file, text("a", i), std::string(bytes, 'x'));
      });
      const hdf5::Object root = made.root();
      CHECK(root.attributes.size() == static_cast<std::size_t>(count));
      for (const hdf5::AttributeMessage& attribute : root.attributes) {
        CHECK(attribute.type.is_string);
        CHECK(attribute.value == std::string(bytes, 'x'));
      }
    }
  }
}

TEST_CASE("a file of an older HDF5 is refused with what rewrites it") {
  const Made made([](hid_t file) { add_groups(file, 3, 1); }, H5F_LIBVER_EARLIEST);
  CHECK(made.message().find("has a superblock of version 0; 2 and 3 are read") != std::string::npos);
  CHECK(made.message().find("h5repack --low=1 --high=2") != std::string::npos);
}

TEST_CASE("metadata that was damaged is refused by its checksum") {
  const Made made([](hid_t file) { add_groups(file, 20, 1); });
  const std::string whole = made.bytes();
  for (const char* signature : {"OHDR", "FRHP", "FHDB", "BTHD", "BTLF"}) {
    CAPTURE(signature);
    std::string bytes = whole;
    bytes[bytes.find(signature) + 12] ^= 1;
    made.replace(bytes);
    CHECK(made.message().find("has a wrong checksum") != std::string::npos);
  }
  made.replace(whole.substr(0, whole.size() - 1));
  CHECK(made.message().find("made.h5: is cut off: ") != std::string::npos);
}

TEST_CASE("metadata that lies under a right checksum is refused, and makes no circle") {
  const Made made([](hid_t file) { add_groups(file, 20, 1); });
  const std::string whole = made.bytes();
  const auto refused = [&](const char* signature, std::size_t size, std::size_t at, std::string_view value,
                           const char* words) {
    CAPTURE(signature);
    CAPTURE(at);
    made.replace(changed(whole, signature, size, at, value));
    const std::string message = made.message();
    CAPTURE(message);
    CHECK(message.find(words) != std::string::npos);
  };
  using namespace std::string_view_literals;
  refused("\x89HDF", 44, 9, "\x04"sv, "superblock at byte 0: has addresses of 4 bytes");
  refused("\x89HDF", 44, 12, "\x01"sv, "has a base address of 1");
  refused("\x89HDF", 44, 28, "\xff\xff\xff"sv, "is cut off: ");
  refused("\x89HDF", 44, 36, "\xff\xff\xff\x7f"sv, "object header at byte 2147483647: of 0 bytes in a file of ");
  refused("BTHD", 34, 5, "\x08"sv, "B-tree at byte ");
  refused("BTHD", 34, 10, "\0\0"sv, "has records of 0 bytes in nodes of 512, 0 deep");
  refused("BTHD", 34, 6, "\xff\xff\xff\xff"sv, "in nodes of 4294967295");
  refused("BTHD", 34, 12, "\xff\xff"sv, "65535 deep");
  refused("BTHD", 34, 24, "\xff\xff"sv, "B-tree node at byte ");
  refused("FRHP", 142, 5, "\0\0"sv, "fractal heap at byte ");
  refused("FRHP", 142, 7, "\1\0"sv, "has a filter");
  refused("FRHP", 142, 110, "\0\0"sv, "0 in a row");
  refused("FRHP", 142, 110, "\0\4"sv, "1024 in a row");
  refused("FRHP", 142, 112, "\0\0\0\0\0\0\0\x40"sv, "has blocks of 4611686018427387904");
  refused("FRHP", 142, 128, "\xff\xff"sv, "in 2^65535 bytes");
  refused("FRHP", 142, 140, "\xff\xff"sv, "fractal heap at byte ");
}

TEST_CASE("metadata that refers to itself comes to an end") {
  const Made made([](hid_t file) { add_groups(file, 1000, 1); });
  std::string bytes = made.bytes();
  // Every child of the tree's inner nodes becomes the first leaf: 23 more names for the same records, each.
  const std::size_t node = bytes.find("BTIN");
  const std::size_t tree = bytes.find("BTHD");
  REQUIRE(node != std::string::npos);
  std::uint16_t num_records = 0;
  std::memcpy(&num_records, &bytes[tree + 24], sizeof num_records);
  const std::size_t children = node + 6 + std::size_t{11} * num_records;
  const std::uint64_t address = node;
  for (std::size_t i = 0; i <= num_records; ++i) std::memcpy(&bytes[children + 9 * i], &address, sizeof address);
  made.replace(changed(bytes, "BTIN", 6 + std::size_t{11} * num_records + 9 * (num_records + std::size_t{1}), 4, ""));
  CHECK(made.message().find("B-tree node at byte ") != std::string::npos);
  // The root's object header as the continuation of itself.
  const Made small([](hid_t) {});
  bytes = small.bytes();
  const std::size_t header = bytes.find("OHDR");
  REQUIRE(header != std::string::npos);
  REQUIRE((bytes[header + 5] & 3) == 0);
  const std::size_t size = 7 + static_cast<unsigned char>(bytes[header + 6]);
  std::string message = std::string("\x10\x10\0\0", 4) + std::string(16, '\0');
  const std::uint64_t begin = header, length = size + 4;
  std::memcpy(&message[4], &begin, sizeof begin);
  std::memcpy(&message[12], &length, sizeof length);
  REQUIRE(size >= 7 + message.size() + 4);
  message += std::string("\0", 1) + static_cast<char>(size - 7 - 24) + std::string("\0\0", 2);  // nothing in the rest
  small.replace(changed(bytes, "OHDR", size, 7, message));
  CAPTURE(small.message());
  CHECK(small.message().find("is not there: its first bytes are others") != std::string::npos);
}

}  // namespace layerprobe
