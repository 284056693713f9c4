#include <doctest/doctest.h>

#include <cstring>
#include <numeric>

#include "base/error.h"
#include "tests/support/stored_bytes.h"
#include "tests/support/stored_file.h"
#include "tests/support/values.h"
#include "weights/convert.h"

namespace layerprobe {
namespace {

using device::StoredValues;
using device::Tensor;

constexpr Dtype kDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};

std::vector<Storage> storages() {
  std::vector<Storage> out;
  for (int i = 0; i <= static_cast<int>(Storage::q6_k); ++i) {
    if (is_convertible(static_cast<Storage>(i))) out.push_back(static_cast<Storage>(i));
  }
  return out;
}

/// A place for values on a device, `gap` elements between rows, all of it filled with a pattern.
class Place {
 public:
  Place(device::Ops& ops, Dtype dtype, std::int64_t rows, std::int64_t columns, std::int64_t gap = 0)
      : ops_(ops), pattern_(static_cast<std::size_t>(rows * (columns + gap)) * size_of(dtype), std::byte{0x5a}) {
    buffer_ = ops.allocate(pattern_.size());
    all_ = Tensor::contiguous(buffer_.data(), dtype, rows, columns + gap);
    ops.copy_from_host(all_, pattern_.data());
  }

  Tensor tensor(std::int64_t columns) const { return all_.column_slice(0, columns); }

  /// Whether `expected` is in the place, packed, and the pattern between its rows.
  bool has(const std::vector<std::byte>& expected, std::int64_t columns) const {
    std::vector<std::byte> wanted = pattern_, found(pattern_.size());
    const std::size_t row_bytes = static_cast<std::size_t>(columns) * size_of(all_.dtype);
    const std::size_t pitch = static_cast<std::size_t>(all_.columns) * size_of(all_.dtype);
    for (std::size_t row = 0; row < static_cast<std::size_t>(all_.rows); ++row) {
      std::memcpy(wanted.data() + row * pitch, expected.data() + row * row_bytes, row_bytes);
    }
    ops_.copy_to_host(found.data(), all_);
    return found == wanted;
  }

 private:
  device::Ops& ops_;
  std::vector<std::byte> pattern_;
  device::Buffer buffer_;
  Tensor all_;
};

std::vector<std::byte> converted(Storage storage, const std::vector<std::byte>& stored, std::int64_t count,
                                 Dtype dtype) {
  std::vector<std::byte> out(static_cast<std::size_t>(count) * size_of(dtype));
  weights::convert(storage, stored.data(), count, dtype, out.data());
  return out;
}

const auto kNobody = [](std::uint64_t) {};

}  // namespace

TEST_CASE("values of every storage reach every dtype with the bits of the host's conversion") {
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    for (const Storage storage : storages()) {
      const std::int64_t rows = 7, columns = traits_of(storage).block_elements == 1 ? 333 : 512;
      test::StoredFile file(13);
      const std::vector<std::byte> stored = test::random_stored(storage, rows * columns, 5);
      const StoredValues values = file.add(rows, columns, storage, stored);
      for (const Dtype dtype : kDtypes) {
        CAPTURE(name_of(storage));
        CAPTURE(name_of(dtype));
        const std::vector<std::byte> expected = converted(storage, stored, rows * columns, dtype);
        const Place together(*ops, dtype, rows, columns), apart(*ops, dtype, rows, columns, 3);
        ops->load({.out = together.tensor(columns), .values = values});
        ops->load({.out = apart.tensor(columns), .values = values});
        ops->finish_loads(kNobody);
        CHECK(together.has(expected, columns));
        CHECK(apart.has(expected, columns));
      }
    }
  }
}

TEST_CASE("large and small values of one file all arrive, and the bytes are told") {
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    test::StoredFile file(4097);
    struct Case {
      Storage storage;
      std::int64_t rows, columns;
    };
    const Case cases[] = {{Storage::bf16, 1, 64},      {Storage::bf16, 3001, 2047}, {Storage::f32, 1, 5},
                          {Storage::q6_k, 8200, 1024}, {Storage::bf16, 1, 64},      {Storage::f32, 2500, 1001},
                          {Storage::q4_0, 999, 32}};
    std::vector<std::vector<std::byte>> expected;
    std::vector<Place> places;
    std::uint64_t bytes = 0, told = 0;
    for (const Case& c : cases) {
      const std::vector<std::byte> stored = test::random_stored(c.storage, c.rows * c.columns, 7);
      places.emplace_back(*ops, Dtype::bf16, c.rows, c.columns);
      ops->load({.out = places.back().tensor(c.columns), .values = file.add(c.rows, c.columns, c.storage, stored)});
      expected.push_back(converted(c.storage, stored, c.rows * c.columns, Dtype::bf16));
      bytes += stored.size();
    }
    ops->finish_loads([&](std::uint64_t more) { told += more; });
    for (std::size_t i = 0; i < places.size(); ++i) {
      CAPTURE(i);
      CHECK(places[i].has(expected[i], cases[i].columns));
    }
    CHECK(told == (ops->name() == "cpu" ? 0 : bytes));  // a processor has read when it queues
  }
}

TEST_CASE("rows of interleaved heads come to their places on every device") {
  // Two heads of 6 rows: stored rows 0 2 4 1 3 5 of each head are transformers' rows 0 to 5 (model-math 10.5).
  constexpr std::int64_t kStoredRow[] = {0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11};
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    for (const std::int64_t columns : {1, 33, 300'000}) {  // 300,000: pieces end inside rows
      for (const Storage storage : {Storage::i32, Storage::f32}) {
        CAPTURE(columns);
        CAPTURE(name_of(storage));
        test::StoredFile file;
        const std::vector<std::byte> stored = test::random_stored(storage, 12 * columns, 3);
        const std::vector<std::byte> in_order = converted(storage, stored, 12 * columns, Dtype::f32);
        std::vector<std::byte> expected(in_order.size());
        const std::size_t row_bytes = static_cast<std::size_t>(columns) * sizeof(float);
        for (std::size_t row = 0; row < 12; ++row) {
          std::memcpy(expected.data() + row * row_bytes,
                      in_order.data() + static_cast<std::size_t>(kStoredRow[row]) * row_bytes, row_bytes);
        }
        const Place matrix(*ops, Dtype::f32, 12, columns), bias(*ops, Dtype::f32, 1, 12 * columns);
        ops->load({.out = matrix.tensor(columns), .values = file.add(12, columns, storage, stored, 2)});
        if (columns == 1) {  // a bias's values are what rows are elsewhere
          ops->load({.out = bias.tensor(12), .values = file.add(1, 12, storage, stored, 2)});
        }
        ops->finish_loads(kNobody);
        CHECK(matrix.has(expected, columns));
        if (columns == 1) CHECK(bias.has(expected, 12));
      }
    }
  }
}

TEST_CASE("stacked parts are converted to their rows, biases to theirs") {
  // Rows of the identity, then of zeros, make a product show each weight and bias: small integers are exact.
  constexpr std::int64_t kIn = 45;  // no device's own width
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      CAPTURE(ops->code_path());
      CAPTURE(name_of(dtype));
      const std::int64_t rows[] = {12, 31, 7};
      test::StoredFile file(3);
      device::Ops::MatMulWeightParts parts{.dtype = dtype, .weights = {}};
      test::Values expected = test::filled(kIn + 1, 50, dtype, 0);
      std::int64_t first = 0;
      for (int part = 0; part < 3; ++part) {
        const auto seed = static_cast<std::uint64_t>(part);
        const test::Values w = test::integers(rows[part], kIn, Dtype::f32, seed, 9);
        const test::Values b = test::integers(1, rows[part], Dtype::f32, seed + 10, 9);
        parts.weights.push_back(file.add(w));
        parts.biases.push_back(part == 1 ? std::nullopt : std::optional(file.add(b)));
        for (std::int64_t row = 0; row < rows[part]; ++row) {
          for (std::int64_t in = 0; in <= kIn; ++in) {
            expected.at(in, first + row) = (in < kIn ? w.at(row, in) : 0) + (part == 1 ? 0 : b.at(0, row));
          }
        }
        first += rows[part];
      }
      const auto weight = ops->matmul_weight(parts);
      ops->finish_loads(kNobody);
      test::Values x = test::filled(kIn + 1, kIn, dtype, 0);
      for (std::int64_t i = 0; i < kIn; ++i) x.at(i, i) = 1;
      const test::OnDevice x_there(*ops, x), out(*ops, test::nans(kIn + 1, 50, dtype));
      ops->matmul({.out = out.tensor(), .x = x_there.tensor(), .weight = *weight});
      CHECK(out.values() == expected);
    }
  }
}

TEST_CASE("a file that ends too early ends the loading with its name, and the next one goes well") {
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    test::StoredFile file, whole;
    const std::vector<std::byte> stored = test::random_stored(Storage::f32, 5'000'000, 1);
    const StoredValues values = file.add(1000, 5000, Storage::f32, stored);
    std::filesystem::resize_file(file.path(), 13'000'000);
    const Place place(*ops, Dtype::f32, 1000, 5000);
    const auto load = [&](const StoredValues& from) {
      ops->load({.out = place.tensor(5000), .values = from});
      ops->finish_loads(kNobody);
    };
    CHECK_THROWS_WITH_AS(load(values), doctest::Contains("values: ends at byte 13000000"), Error);
    load(whole.add(1000, 5000, Storage::f32, stored));
    CHECK(place.has(stored, 5000));
  }
}

TEST_CASE("what the listener throws ends the loading") {
  for (const auto& ops : test::devices()) {
    if (ops->name() == "cpu") continue;  // has read when it queues, and tells nobody
    test::StoredFile file;
    const Place place(*ops, Dtype::f32, 1000, 5000);
    ops->load({.out = place.tensor(5000),
               .values = file.add(1000, 5000, Storage::f32, test::random_stored(Storage::f32, 5'000'000, 1))});
    const auto stop = [](std::uint64_t) {
      throw Error({.kind = ErrorKind::interrupted, .where = "run", .what = "stopped"});
    };
    CHECK_THROWS_WITH_AS(ops->finish_loads(stop), doctest::Contains("run: stopped"), Error);
    ops->finish_loads(kNobody);
  }
}

TEST_CASE("load names both shapes when they differ, and refuses what has no values by itself") {
  for (const auto& ops : test::devices()) {
    test::StoredFile file;
    const Place place(*ops, Dtype::f32, 3, 64);
    const StoredValues values = file.add(3, 32, Storage::f32, std::vector<std::byte>(384));
    CHECK_THROWS_WITH_AS(ops->load({.out = place.tensor(64), .values = values}),
                         doctest::Contains("values is [3, 32] float32 where out is [3, 64] float32"), Error);
    const StoredValues f8 = file.add(3, 64, Storage::f8_e4m3, std::vector<std::byte>(192));
    CHECK_THROWS_WITH_AS(ops->load({.out = place.tensor(64), .values = f8}), doctest::Contains("stored as F8_E4M3"),
                         Error);
  }
}

}  // namespace layerprobe
