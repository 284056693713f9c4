#include "weights/gguf_header.h"

#include <doctest/doctest.h>

#include <limits>

#include "base/error.h"
#include "tests/support/model_files.h"

namespace layerprobe::weights {
namespace {

using test::GgufBuilder;
using test::raw;

GgufHeader header_of(const std::string& file_bytes) {
  const test::TempFolder folder;
  return read_gguf_header(File::open_for_reading(folder.write("m.gguf", file_bytes)), 0);
}

constexpr std::uint32_t kF32 = 0;
constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();

/// An array value: item type, count, items.
std::string array(std::uint32_t type, std::uint64_t count, const std::string& items) {
  return raw(type) + raw(count) + items;
}

}  // namespace

TEST_CASE("metadata of every type is read") {
  const GgufHeader header = header_of(GgufBuilder()
                                          .value("u8", 0, raw(std::uint8_t{200}))
                                          .value("i8", 1, raw(std::int8_t{-3}))
                                          .value("u16", 2, raw(std::uint16_t{60000}))
                                          .value("i16", 3, raw(std::int16_t{-300}))
                                          .u32("u32", 4'000'000'000u)
                                          .value("i32", 5, raw(std::int32_t{-70'000}))
                                          .f32("f32", 1e-5f)
                                          .value("bool", 7, raw(std::uint8_t{1}))
                                          .text("string", "h\xc3\xa9")
                                          .value("array", 9, array(5, 2, raw(std::vector<std::int32_t>{7, -8})))
                                          .value("u64", 10, raw(std::uint64_t{1} << 40))
                                          .value("i64", 11, raw(std::int64_t{-1}))
                                          .value("f64", 12, raw(0.1))
                                          .strings("strings", {"a", "bc"})
                                          .bytes());
  const auto& values = header.values;
  CHECK(values.at("u8").integer() == 200);
  CHECK(values.at("i8").integer() == -3);
  CHECK(values.at("u16").integer() == 60000);
  CHECK(values.at("i16").integer() == -300);
  CHECK(values.at("u32").integer() == 4'000'000'000);
  CHECK(values.at("i32").integer() == -70'000);
  CHECK(values.at("f32").number() == 1e-5);  // the shortest decimal, as config.json had it
  CHECK(values.at("bool").boolean());
  CHECK(values.at("string").string() == "h\xc3\xa9");
  CHECK(values.at("array").items()[1].integer() == -8);
  CHECK(values.at("u64").integer() == std::int64_t{1} << 40);
  CHECK(values.at("i64").integer() == -1);
  CHECK(values.at("f64").number() == 0.1);
  CHECK(header.arrays.at("strings").count == 2);
  CHECK_FALSE(values.contains("strings"));
}

TEST_CASE("versions 2 and 3 are read, others refused by number") {
  for (const std::uint32_t version : {2u, 3u}) {
    GgufBuilder builder;
    builder.version = version;
    CHECK(header_of(builder.bytes()).values.empty());
  }
  GgufBuilder builder;
  builder.version = 1;
  CHECK_THROWS_WITH_AS(header_of(builder.bytes()), doctest::Contains("is GGUF version 1; 2 and 3 are read"), Error);
  builder.version = 0x03000000;
  CHECK_THROWS_WITH_AS(header_of(builder.bytes()), doctest::Contains("big-endian"), Error);
}

TEST_CASE("a file that is no GGUF is refused") {
  CHECK_THROWS_WITH_AS(header_of("PK\x03\x04 and so on"), doctest::Contains("does not begin with GGUF"), Error);
  CHECK_THROWS_WITH_AS(header_of("GG"), doctest::Contains("ends at byte 2 in the middle of the header"), Error);
}

TEST_CASE("of a file of a model's folder the folder is the name") {
  const test::TempFolder folder;
  const auto path = folder.write("config.json", "{\"model_type\": \"llama\"}");
  CHECK_THROWS_WITH_AS(read_gguf_header(File::open_for_reading(path), 0),
                       doctest::Contains(("help: name the model's folder: " + folder.path().string()).c_str()), Error);
}

TEST_CASE("a GGUF header cut off at any byte is refused") {
  const std::string whole =
      GgufBuilder().text("key", "value").strings("list", {"a", "b"}).tensor("t", {2}, kF32, "12345678").bytes();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    CHECK_THROWS_AS(header_of(whole.substr(0, length)), Error);
  }
  CHECK(header_of(whole).tensors.size() == 1);
}

TEST_CASE("a string longer than the file is refused before memory is taken") {
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().value("key", 8, raw(kHuge)).bytes()),
                       doctest::Contains("says that 18446744073709551615 bytes follow"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().value("key", 8, raw(std::uint64_t{60'000})).bytes()),
                       doctest::Contains("says that 60000 bytes"), Error);
}

TEST_CASE("an array longer than the file is refused before memory is taken") {
  for (const std::uint32_t type : {0u, 4u, 8u, 12u}) {
    CAPTURE(type);
    CHECK_THROWS_WITH_AS(header_of(GgufBuilder().value("key", 9, array(type, kHuge, "")).bytes()),
                         doctest::Contains("says that 18446744073709551615 items of an array follow"), Error);
  }
}

TEST_CASE("an array of arrays is refused") {
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().value("key", 9, array(9, 1, array(4, 1, raw(7u)))).bytes()),
                       doctest::Contains("key key: an array of arrays"), Error);
}

TEST_CASE("a metadata type that is not known is refused") {
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().value("key", 13, "").bytes()),
                       doctest::Contains("key key: value type 13 is not known"), Error);
}

TEST_CASE("a key that stands twice is refused, arrays included") {
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().u32("key", 1).u32("key", 1).bytes()),
                       doctest::Contains("key key stands twice"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().strings("key", {}).u32("key", 1).bytes()),
                       doctest::Contains("key key stands twice"), Error);
}

TEST_CASE("a key that is empty, too long or not UTF-8 is refused") {
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().u32("", 1).bytes()), doctest::Contains("is 0 bytes long"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().u32(std::string(70'000, 'k'), 1).bytes()),
                       doctest::Contains("is 70000 bytes long; 1 to 65535 are possible"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().u32("\xc3", 1).bytes()), doctest::Contains("is not UTF-8"), Error);
}

TEST_CASE("counts of keys and tensors that the file cannot hold are refused") {
  GgufBuilder keys;
  keys.num_values = 4097;
  CHECK_THROWS_WITH_AS(header_of(keys.bytes()), doctest::Contains("4097 metadata keys; at most 4096 are read"), Error);
  GgufBuilder tensors;
  tensors.num_tensors = kHuge;
  CHECK_THROWS_WITH_AS(header_of(tensors.bytes()), doctest::Contains("says that 18446744073709551615 tensors"), Error);
}

TEST_CASE("a header over 100 MB is refused, however large the file") {
  const auto refused = [](const std::string& begins) {
    const test::TempFolder folder;
    const std::filesystem::path path = folder.write("m.gguf", begins);
    std::filesystem::resize_file(path, 1'000'000'000'000);  // sparse: zeros that take no space
    CHECK_THROWS_WITH_AS(read_gguf_header(File::open_for_reading(path), 0),
                         doctest::Contains("header of more than 100000000 bytes, which are the most that are read"),
                         Error);
  };
  GgufBuilder builder;
  builder.num_values = 1;
  const auto bytes = [&](const std::string& value) {
    builder.values = GgufBuilder::string("key") + value;
    return builder.bytes();
  };
  refused(bytes(raw(9u) + array(8, 100'000'000'000, "")));  // empty strings
  refused(bytes(raw(9u) + array(0, 100'000'001, "")));
  refused(bytes(raw(8u) + raw(std::uint64_t{100'000'001})));
}

TEST_CASE("a long string is passed over, a long array remembered by its place") {
  const GgufHeader header = header_of(GgufBuilder()
                                          .text("long", std::string(70'000, 'x'))
                                          .value("many", 9, array(0, 300'000, std::string(300'000, '\1')))
                                          .u32("after", 7)
                                          .bytes());
  CHECK(header.values.at("long").is_null());
  CHECK_FALSE(header.values.contains("many"));
  CHECK(header.arrays.at("many").count == 300'000);
  CHECK(header.values.at("after").integer() == 7);
}

TEST_CASE("a tensor's dims are reversed and its offset counts from the file's first byte") {
  const std::string file =
      GgufBuilder().tensor("a", {1}, kF32, "abcd").tensor("b", {3, 2}, kF32, std::string(24, 'x')).bytes();
  const GgufHeader header = header_of(file);
  REQUIRE(header.tensors.size() == 2);
  CHECK(header.tensors[1].shape == std::vector<std::int64_t>{2, 3});
  CHECK(header.tensors[1].bytes == 24);
  CHECK(header.tensors[1].offset % 32 == 0);
  CHECK(file.substr(header.tensors[0].offset, 4) == "abcd");
  CHECK(file.substr(header.tensors[1].offset, 24) == std::string(24, 'x'));
}

TEST_CASE("another alignment is honoured, and one that is no power of two refused") {
  GgufBuilder builder;
  builder.alignment = 256;
  const std::string file = builder.u32("general.alignment", 256).tensor("a", {1}, kF32, "abcd").bytes();
  CHECK(file.substr(header_of(file).tensors[0].offset, 4) == "abcd");
  for (const std::uint32_t alignment : {0u, 24u, 0xffffffffu}) {
    CAPTURE(alignment);
    CHECK_THROWS_WITH_AS(header_of(GgufBuilder().u32("general.alignment", alignment).bytes()),
                         doctest::Contains("a power of two is due"), Error);
  }
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().text("general.alignment", "32").bytes()),
                       doctest::Contains("general.alignment is \"32\""), Error);
}

TEST_CASE("a tensor type that is not read is refused by name and number") {
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().info("t", {256}, 23, 0).bytes()),
                       doctest::Contains("tensor t: its type 23 (IQ4_XS) is not supported"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().info("t", {256}, 777, 0).bytes()),
                       doctest::Contains("its type 777 (unknown)"), Error);
}

TEST_CASE("dimensions that cannot be are refused") {
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().info("t", {}, kF32, 0).bytes()),
                       doctest::Contains("tensor t: has 0 dimensions"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().info("t", {1, 1, 1, 1, 1}, kF32, 0).bytes()),
                       doctest::Contains("tensor t: has 5 dimensions"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().info("t", {kHuge}, kF32, 0).bytes()),
                       doctest::Contains("dimension 0 is 18446744073709551615"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().info("t", {1u << 31, 1u << 31, 1u << 31}, kF32, 0).bytes()),
                       doctest::Contains("tensor t: shape [2147483648, 2147483648, 2147483648] overflows"), Error);
}

TEST_CASE("rows that are no whole blocks are refused") {
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().info("t", {48, 2}, 2, 0).bytes()),
                       doctest::Contains("tensor t: rows of 48 are no whole blocks of 32 (Q4_0)"), Error);
}

TEST_CASE("offsets that leave the file, are not aligned or overlap are refused") {
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().tensor("t", {3}, kF32, "12345678").bytes()),
                       doctest::Contains("tensor t: 12 bytes at offset 0, where the file has 8 bytes of data"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().info("t", {1}, kF32, kHuge - 31).bytes()),
                       doctest::Contains("where the file has 0 bytes of data"), Error);
  CHECK_THROWS_WITH_AS(header_of(GgufBuilder().info("t", {1}, kF32, 4).bytes()),
                       doctest::Contains("tensor t: offset 4 is no multiple of the alignment, 32"), Error);
  CHECK_THROWS_WITH_AS(
      header_of(GgufBuilder().tensor("a", {16}, kF32, std::string(64, 'x')).info("b", {1}, kF32, 32).bytes()),
      doctest::Contains("tensor b overlaps tensor a"), Error);
}

}  // namespace layerprobe::weights
