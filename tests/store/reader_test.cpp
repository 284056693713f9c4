#include "store/reader.h"

#include <doctest/doctest.h>

#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/file.h"
#include "store/hdf5.h"
#include "tests/store/sample.h"

namespace layerprobe {

using store::Reader;
namespace hdf5 = store::hdf5;

namespace {

/// A whole file, and ways to make it lie. HDF5 itself makes the lies about structure, so that checksums are right.
class Lie {
 public:
  Lie() {
    static const std::string whole = [] {
      const test::TempFolder folder_of_whole;
      test::write_run(folder_of_whole / "whole.h5", test::sample_layout());
      return test::read_all(folder_of_whole / "whole.h5");
    }();
    test::write_all(path, whole);
  }

  void change(const std::function<void(hid_t file)>& change_file) const {
    const hdf5::Properties access(H5Pcreate(H5P_FILE_ACCESS));
    H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V110);
    const hdf5::File file(H5Fopen(path.c_str(), H5F_ACC_RDWR, access.get()));
    REQUIRE(file.get() >= 0);
    change_file(file.get());
  }

  /// Another dataset in its place, with zeros in it.
  void replace(const char* name, hid_t type, std::vector<hsize_t> shape, hid_t creation = H5P_DEFAULT) {
    change([&](hid_t file) {
      if (H5Lexists(file, name, H5P_DEFAULT) > 0) REQUIRE(H5Ldelete(file, name, H5P_DEFAULT) >= 0);
      const hdf5::Space space(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr));
      const hdf5::Dataset dataset(H5Dcreate2(file, name, type, space.get(), H5P_DEFAULT, creation, H5P_DEFAULT));
      REQUIRE(dataset.get() >= 0);
      std::vector<char> zeros(100000);
      REQUIRE(H5Dwrite(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data()) >= 0);
    });
  }

  /// One element's value, where it lies.
  template <typename T>
  void set(const char* name, std::size_t element, T value) {
    haddr_t offset = 0;
    change([&](hid_t file) {
      const hdf5::Dataset dataset(H5Dopen2(file, name, H5P_DEFAULT));
      offset = H5Dget_offset(dataset.get());
    });
    std::string bytes = test::read_all(path);
    std::memcpy(&bytes[offset + element * sizeof(T)], &value, sizeof(T));
    test::write_all(path, bytes);
  }

  /// What the reader says of it, fix and all.
  std::string message() const {
    try {
      const Reader reader(path);
      reader.top_k();
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::input);
      CHECK_FALSE(error.parts().fix.empty());
      return error.what();
    }
    return "no error";
  }

  const test::TempFolder folder;
  const std::filesystem::path path = folder / "lie.h5";
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

#define CHECK_MESSAGE_HAS(lie, ...)                                  \
  do {                                                               \
    const std::string message = (lie).message();                     \
    CAPTURE(message);                                                \
    for (const char* part : std::vector<const char*>{__VA_ARGS__}) { \
      CAPTURE(part);                                                 \
      CHECK(contains(message, part));                                \
    }                                                                \
  } while (false)

constexpr std::int64_t kHuge = std::int64_t{1} << 62;

}  // namespace

TEST_CASE("a file that is missing, unfinished, empty or no HDF5 file is refused by its name") {
  Lie lie;
  std::filesystem::remove(lie.path);
  CHECK_MESSAGE_HAS(lie, "lie.h5: no such file");
  test::write_all(lie.path.string() + ".partial", "");
  CHECK_MESSAGE_HAS(lie, "lie.h5: the run that writes it has not finished", "--resume", "lie.h5.partial");
  test::write_all(lie.path, "");
  CHECK_MESSAGE_HAS(lie, "lie.h5: is no HDF5 file: its first bytes are others", "name a whole HDF5 file");
  test::write_all(lie.path, std::string(5000, 'x'));
  CHECK_MESSAGE_HAS(lie, "lie.h5: is no HDF5 file");
}

TEST_CASE("a file of a later version is refused with both versions") {
  Lie lie;
  const auto set_version = [&](std::int64_t version) {
    lie.change([&](hid_t file) {
      const hdf5::Attribute attribute(H5Aopen(file, "format_version", H5P_DEFAULT));
      H5Awrite(attribute.get(), H5T_NATIVE_INT64, &version);
    });
  };
  set_version(2);
  CHECK_MESSAGE_HAS(lie, "format_version: is 2; this program reads up to 1", "newer layerprobe");
  set_version(0);
  CHECK_MESSAGE_HAS(lie, "format_version: is 0");
  lie.change([](hid_t file) { H5Adelete(file, "format_version"); });
  CHECK_MESSAGE_HAS(lie, "format_version: is missing");
}

TEST_CASE("types of variable length are refused before they are read") {
  const hdf5::Type variable_string(H5Tcopy(H5T_C_S1));
  H5Tset_size(variable_string.get(), H5T_VARIABLE);
  const hdf5::Type variable_list(H5Tvlen_create(H5T_NATIVE_INT));
  for (const hid_t type : {variable_string.get(), variable_list.get()}) {
    Lie lie;
    lie.replace("/statistics/points", type, {6});
    CHECK_MESSAGE_HAS(lie, "/statistics/points: its type has a variable length", "numpy.bytes_");
    Lie other;
    other.change([&](hid_t file) {
      const hdf5::Space space(H5Screate(H5S_SCALAR));
      const hdf5::Attribute attribute(H5Acreate2(file, "note", type, space.get(), H5P_DEFAULT, H5P_DEFAULT));
      REQUIRE(attribute.get() >= 0);
    });
    CHECK_MESSAGE_HAS(other, "attribute note: its type has a variable length");
  }
}

TEST_CASE("an attribute that is neither a number nor a string is refused") {
  Lie lie;
  lie.change([&](hid_t file) {
    const hsize_t length = 3;
    const hdf5::Space space(H5Screate_simple(1, &length, nullptr));
    const hdf5::Attribute list(H5Acreate2(file, "list", H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT));
  });
  CHECK_MESSAGE_HAS(lie, "attribute list: is i64", "one i64, f64 or fixed-length string is expected");
}

TEST_CASE("datasets that are chunked, compact, in another file or never written are refused with what to do") {
  const hdf5::Properties chunked(H5Pcreate(H5P_DATASET_CREATE)), compact(H5Pcreate(H5P_DATASET_CREATE)),
      external(H5Pcreate(H5P_DATASET_CREATE));
  const hsize_t chunk[] = {2, 5};
  H5Pset_chunk(chunked.get(), 2, chunk);
  H5Pset_layout(compact.get(), H5D_COMPACT);
  for (const hid_t creation : {chunked.get(), compact.get()}) {
    Lie lie;
    lie.replace("/captures/model.norm", H5T_IEEE_F32LE, {4, 5}, creation);
    CHECK_MESSAGE_HAS(lie, "/captures/model.norm: is chunked, compact or virtual", "h5repack -l CONTI -f NONE");
  }
  Lie lie;
  H5Pset_external(external.get(), (lie.folder / "elsewhere").c_str(), 0, 80);
  lie.replace("/captures/model.norm", H5T_IEEE_F32LE, {4, 5}, external.get());
  CHECK_MESSAGE_HAS(lie, "/captures/model.norm: its values lie in another file");

  Lie unwritten;
  unwritten.change([](hid_t file) {
    H5Ldelete(file, "/captures/model.norm", H5P_DEFAULT);
    const hsize_t shape[] = {4, 5};
    const hdf5::Space space(H5Screate_simple(2, shape, nullptr));
    const hdf5::Dataset dataset(
        H5Dcreate2(file, "/captures/model.norm", H5T_IEEE_F32LE, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  });
  CHECK_MESSAGE_HAS(unwritten, "/captures/model.norm: has no values");
}

TEST_CASE("no soft or external link is followed") {
  for (const char* name : {"/captures/model.norm", "/prompts/input_ids", "/topk", "/statistics/per_prompt"}) {
    CAPTURE(name);
    Lie lie;
    lie.change([&](hid_t file) {
      H5Lmove(file, name, file, "/moved", H5P_DEFAULT, H5P_DEFAULT);
      H5Lcreate_soft("/moved", file, name, H5P_DEFAULT, H5P_DEFAULT);
    });
    CHECK_MESSAGE_HAS(lie, name, "is a soft or external link");
  }
  Lie lie;
  lie.change([&](hid_t file) {
    H5Ldelete(file, "/prompts", H5P_DEFAULT);
    H5Lcreate_external("/etc/passwd", "/prompts", file, "/prompts", H5P_DEFAULT, H5P_DEFAULT);
  });
  CHECK_MESSAGE_HAS(lie, "/prompts: is a soft or external link");
}

TEST_CASE("a dataset that is missing, or of another type or shape, is named with both") {
  const auto message_with = [](const char* name, hid_t type, std::vector<hsize_t> shape, auto... parts) {
    Lie lie;
    lie.replace(name, type, std::move(shape));
    CHECK_MESSAGE_HAS(lie, name, parts...);
  };
  message_with("/prompts/input_ids", H5T_STD_I64LE, {6}, "its type is i64 where i32 is expected");
  message_with("/prompts/input_ids", H5T_STD_I32BE, {6}, "its type is integer of 4 bytes where i32");
  message_with("/prompts/input_ids", H5T_STD_I32LE, {7}, "is [7] where [6] is expected");
  message_with("/prompts/cu_seqlens", H5T_STD_I64LE, {2, 2}, "is [2, 2] where [num_prompts + 1] is expected");
  message_with("/rows/cu_rows", H5T_STD_I64LE, {5}, "is [5] where [4] is expected");
  message_with("/captures/model.norm", H5T_IEEE_F32LE, {3, 5}, "is [3, 5] where [4, 5] is expected");
  message_with("/captures/model.norm", H5T_IEEE_F32LE, {4, 6}, "is 6 wide where /statistics/widths says 5");
  message_with("/captures/model.norm", H5T_IEEE_F64LE, {4, 5}, "is float64 where /statistics/dtypes says \"float32\"");
  message_with("/captures/model.norm", H5T_STD_U8LE, {4, 5}, "its type is none of");
  message_with("/captures/model.norm", H5T_IEEE_F32LE, {20}, "is [20] where [4, width] is expected");
  message_with("/captures/model.norm", H5T_IEEE_F32LE, {4, 5, 1}, "has 3 axes");
  message_with("/completion", H5T_STD_U8LE, {3, 6}, "is [3, 6] where [6, 3] is expected");
  message_with("/statistics/points", H5T_STD_I64LE, {6}, "its type is i64 where strings are expected");
  message_with("/statistics/widths", H5T_STD_I64LE, {7}, "is [7] where [6] is expected");
  message_with("/statistics/std", H5T_IEEE_F32LE, {6}, "its type is f32 where f64 is expected");
  message_with("/statistics/per_prompt/min", H5T_IEEE_F64LE, {18}, "is [18] where [6, 3] is expected");
  message_with("/topk/logits", H5T_IEEE_F64LE, {4, 2}, "its type is f64 where f32 is expected");
  message_with("/topk/text_offsets", H5T_STD_I64LE, {8}, "is [8] where [9] is expected");
  message_with("/end/information", H5T_STD_U8LE, {65536}, "is [65536] where [] is expected");
  for (const char* name : {"/prompts/cu_seqlens", "/prompts/text_bytes", "/rows/position", "/statistics/points",
                           "/captures", "/statistics/per_prompt/sum", "/topk/ids", "/end/finished"}) {
    CAPTURE(name);
    Lie lie;
    lie.change([&](hid_t file) { H5Ldelete(file, name, H5P_DEFAULT); });
    CHECK_MESSAGE_HAS(lie, name, "is missing");
  }
  Lie lie;
  lie.replace("/captures/another", H5T_IEEE_F32LE, {4, 5});
  CHECK_MESSAGE_HAS(lie, "/captures: holds 6 datasets of which /statistics/points lists 5");
}

TEST_CASE("offsets that fall, or end elsewhere than they should, are refused") {
  const auto message_with = [](const char* name, std::size_t element, std::int64_t value, auto... parts) {
    Lie lie;
    lie.set(name, element, value);
    CHECK_MESSAGE_HAS(lie, name, parts...);
  };
  message_with("/prompts/cu_seqlens", 0, 1, "element 0 is 1 where 0 is expected");
  message_with("/prompts/cu_seqlens", 2, 2, "element 2 is 2 where at least 3 is expected");
  message_with("/prompts/cu_seqlens", 1, -1, "element 1 is -1 where at least 0 is expected");
  message_with("/rows/cu_rows", 3, 5, "ends with 5 where 4 is expected");
  message_with("/rows/cu_rows", 3, kHuge, "ends with 4611686018427387904 where 4 is expected");
  message_with("/prompts/text_offsets", 1, kHuge, "element 2 is 13 where at least 4611686018427387904 is expected");
  message_with("/topk/text_offsets", 8, kHuge, "element 8 is 4611686018427387904 where 35 to 2048 is expected");
  message_with("/topk/text_offsets", 3, -5, "element 3 is -5");
  Lie tokens;
  tokens.set("/prompts/cu_seqlens", 3, kHuge);
  CHECK_MESSAGE_HAS(tokens, "/prompts/input_ids: is [6] where [4611686018427387904] is expected");
}

TEST_CASE("values that a point cannot have are refused") {
  Lie position;
  position.set("/rows/position", 1, std::int32_t{3});
  CHECK_MESSAGE_HAS(position, "/rows/position: row 1 is token 3 of prompt 0, which has 3");
  for (const std::int64_t width : {std::int64_t{0}, std::int64_t{-1}, kHuge}) {
    Lie lie;
    lie.set("/statistics/widths", 3, width);
    CHECK_MESSAGE_HAS(lie, "model.layers.1: its width is ");
  }
  Lie row;
  row.set("/statistics/abs_max_row", 2, std::int64_t{4});
  CHECK_MESSAGE_HAS(row, "model.layers.0: abs_max_row: has a value that 4 rows of 6 cannot give");
  Lie count;
  count.set("/statistics/nan_count", 2, kHuge);
  CHECK_MESSAGE_HAS(count, "model.layers.0: nan_count: has a value");
  Lie name;
  name.set("/statistics/points", 5, '/');
  CHECK_MESSAGE_HAS(name, "/statistics/points: element 0 is \"model/embed_tokens\", which is no point's name");
  Lie dtype;
  dtype.set("/statistics/dtypes", 3 * 8, 'c');
  CHECK_MESSAGE_HAS(dtype, "/statistics/dtypes: element 3 is \"cfloat16\", which is no dtype");
  Lie twice;
  twice.set("/statistics/points", 31 * 4 + 6, '\0');
  for (std::size_t i = 0; i < 7; ++i) twice.set("/statistics/points", 31 * 5 + i, "model."[i]);
  CHECK_MESSAGE_HAS(twice, "/statistics/points: \"model.\" stands twice");
  Lie completion;
  completion.set("/completion", 7, std::uint8_t{0});
  CHECK_MESSAGE_HAS(completion, "/end/finished: says that the run is finished where /completion says that it is not");
  Lie json;
  json.set("/end/information", 0, '[');
  CHECK_MESSAGE_HAS(json, "/end/information", "not valid JSON");
}

TEST_CASE("more points than a file can mean are refused before memory is taken") {
  Lie lie;
  lie.change([](hid_t file) {
    H5Ldelete(file, "/statistics/points", H5P_DEFAULT);
    const hsize_t count = 10'000'001;
    const hdf5::Space space(H5Screate_simple(1, &count, nullptr));
    const hdf5::Type type = hdf5::string_type(1);
    const hdf5::Properties creation(H5Pcreate(H5P_DATASET_CREATE));
    H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY);
    const hdf5::Dataset dataset(
        H5Dcreate2(file, "/statistics/points", type.get(), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
    REQUIRE(dataset.get() >= 0);
  });
  CHECK_MESSAGE_HAS(lie, "/statistics/points: lists 10000001 points; at most 10000000 are read");
}

TEST_CASE("two datasets that share bytes are refused") {
  Lie lie;
  lie.change([](hid_t file) {
    H5Ldelete(file, "/statistics/per_prompt/max", H5P_DEFAULT);
    H5Lcreate_hard(file, "/statistics/per_prompt/min", file, "/statistics/per_prompt/max", H5P_DEFAULT, H5P_DEFAULT);
  });
  CHECK_MESSAGE_HAS(lie, "shares bytes with");
}

TEST_CASE("a file of another engine may leave out completion, end, measures, dtypes and widths") {
  store::Layout layout = test::sample_layout();
  layout.points.erase(layout.points.begin() + 3);  // the one without a dataset
  const Lie lie;
  std::filesystem::remove(lie.path);
  test::write_run(lie.path, layout);
  lie.change([](hid_t file) {
    for (const char* name : {"/completion", "/end", "/topk", "/statistics/per_prompt", "/statistics/mean",
                             "/statistics/dtypes", "/statistics/widths", "/prompts/text_offsets"}) {
      REQUIRE(H5Ldelete(file, name, H5P_DEFAULT) >= 0);
    }
  });
  const Reader reader(lie.path);
  CHECK(reader.is_finished());
  CHECK(reader.is_complete(4, 2));
  CHECK(reader.complete_bytes() == reader.capture_bytes());
  CHECK(reader.points()[4].point == layout.points[4].point);
  CHECK(reader.statistics(4).count == 0);
  CHECK(reader.prompts().texts.empty());
  CHECK(reader.top_k().k == 0);

  const Lie without_dataset;
  without_dataset.change([](hid_t file) { H5Ldelete(file, "/statistics/dtypes", H5P_DEFAULT); });
  CHECK_MESSAGE_HAS(without_dataset, "/captures/model.layers.1: is missing, and /statistics has no dtypes and widths");
}

TEST_CASE("a file cut short at any byte is refused") {
  const Lie lie;
  for (std::size_t size = std::filesystem::file_size(lie.path); size > 997; size -= 997) {
    CAPTURE(size);
    std::filesystem::resize_file(lie.path, size - 997);
    CHECK_THROWS_AS(Reader{lie.path}, Error);
  }
}

TEST_CASE("a file with any one byte changed is read or refused, and nothing else happens") {
  const Lie lie;
  const std::string bytes = test::read_all(lie.path);
  const File file = File::open_for_writing(lie.path);
  const auto write = [&](std::size_t at, char value) { file.write_at(at, std::as_bytes(std::span(&value, 1))); };
  std::size_t refused = 0, tried = 0;
  for (std::size_t at = 0; at < bytes.size(); at += bytes[at] == 0 ? 401 : 13) {
    write(at, static_cast<char>(bytes[at] ^ (at % 2 == 0 ? 0xff : 0x01)));
    ++tried;
    try {
      const Reader reader(lie.path);
      reader.top_k();
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::input);
      ++refused;
    }
    write(at, bytes[at]);
  }
  CHECK(tried > 500);
  CHECK(refused > tried / 20);
}

}  // namespace layerprobe
