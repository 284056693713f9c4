#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "tests/support/formulas.h"

namespace layerprobe {
namespace {

using test::Values;

/// Of each row by itself: prompts of one row.
std::vector<Statistics> row_statistics(device::Ops& ops, const Values& x) {
  const test::OnDevice x_there(ops, x, 5);
  std::vector<Statistics> out(static_cast<std::size_t>(x.rows));
  std::vector<std::int64_t> cu_rows(out.size() + 1);
  std::iota(cu_rows.begin(), cu_rows.end(), 0);
  ops.append_statistics({.out = out, .x = x_there.tensor(), .cu_rows = cu_rows});
  ops.synchronize();
  return out;
}

void check_same_bits(const Statistics& found, const Statistics& expected) {
  CHECK(found.count == expected.count);
  CHECK(std::bit_cast<std::uint64_t>(found.sum) == std::bit_cast<std::uint64_t>(expected.sum));
  CHECK(std::bit_cast<std::uint64_t>(found.sum_of_squares) == std::bit_cast<std::uint64_t>(expected.sum_of_squares));
  CHECK(found.min == expected.min);
  CHECK(found.max == expected.max);
  CHECK(found.abs_max == expected.abs_max);
  CHECK(found.abs_max_row == expected.abs_max_row);
  CHECK(found.abs_max_column == expected.abs_max_column);
  CHECK(found.nan_count == expected.nan_count);
  CHECK(found.inf_count == expected.inf_count);
  CHECK(found.first_non_finite_row == expected.first_non_finite_row);
}

}  // namespace

TEST_CASE("statistics of a row have the bits of the tree in base/statistics.h on every device") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
      for (const std::int64_t width : {1, 2, 31, 32, 33, 47, 63, 64, 65, 100, 576, 1000}) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(width);
        const Values x = test::random(6, width, dtype, static_cast<std::uint64_t>(width), 7);
        const std::vector<Statistics> found = row_statistics(*ops, x);
        for (std::int64_t row = 0; row < x.rows; ++row) {
          check_same_bits(found[static_cast<std::size_t>(row)], test::row_statistics_in_f64(x, row));
        }
      }
    }
  }
}

TEST_CASE("NaN and infinity are counted and left out of everything else") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
      for (const std::int64_t width : {5, 70}) {
        Values x = test::random(4, width, dtype, 1);
        x.at(1, 4) = nan;
        x.at(2, 0) = -infinity;
        x.at(2, width - 1) = nan;
        for (std::int64_t column = 0; column < width; ++column) x.at(3, column) = column % 2 == 0 ? nan : infinity;
        const std::vector<Statistics> found = row_statistics(*ops, x);
        for (std::int64_t row = 0; row < 4; ++row) {
          check_same_bits(found[static_cast<std::size_t>(row)], test::row_statistics_in_f64(x, row));
        }
        CHECK(found[3].finite_count() == 0);
        CHECK(found[3].abs_max_column == -1);
      }
    }
  }
}

TEST_CASE("the place of the largest magnitude is its first column, whatever the sign") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
      for (const std::int64_t first : {0, 13, 31, 40, 67}) {
        Values x = test::integers(1, 70, dtype, 1, 5);
        x.at(0, first) = first % 2 == 0 ? -9 : 9;
        for (std::int64_t column = first + 1; column < 70; column += 3) x.at(0, column) = column % 2 == 0 ? 9 : -9;
        CHECK(row_statistics(*ops, x)[0].abs_max_column == first);
      }
      CHECK(row_statistics(*ops, test::filled(1, 50, dtype, 0))[0].abs_max_column == 0);
    }
  }
}

TEST_CASE("statistics of a prompt are those of its rows in order, to the bit, in one call or in parts") {
  const std::vector<std::int64_t> cu_rows = {0, 1, 70, 70, 103, 200};
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const auto devices = test::devices();
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
    Values x = test::random(200, 70, dtype, 1, 9);
    x.at(30, 5) = x.at(60, 5) = infinity;
    x.at(50, 5) = nan;
    for (std::int64_t column = 0; column < 70; ++column) x.at(103, column) = nan;
    x.at(40, 7) = 1000;
    x.at(64, 3) = -1000;
    std::vector<Statistics> expected(5);
    for (std::size_t prompt = 0; prompt < 5; ++prompt) {
      for (std::int64_t row = cu_rows[prompt]; row < cu_rows[prompt + 1]; ++row) {
        expected[prompt].append(test::row_statistics_in_f64(x, row), row - cu_rows[prompt]);
      }
    }
    for (const auto& ops : devices) {
      CAPTURE(ops->code_path());
      CAPTURE(name_of(dtype));
      const test::OnDevice there(*ops, x);
      std::vector<Statistics> whole(5), parts(5);
      ops->append_statistics({.out = whole, .x = there.tensor(), .cu_rows = cu_rows});
      for (const auto& [first, count] : {std::pair{0, 45}, {45, 1}, {46, 154}}) {
        std::vector<std::int64_t> of_part;
        for (const std::int64_t row : cu_rows) of_part.push_back(std::clamp<std::int64_t>(row - first, 0, count));
        ops->append_statistics({.out = parts, .x = there.tensor().row_slice(first, count), .cu_rows = of_part});
        ops->synchronize();
      }
      for (std::size_t prompt = 0; prompt < 5; ++prompt) {
        CAPTURE(prompt);
        check_same_bits(whole[prompt], expected[prompt]);
        check_same_bits(parts[prompt], expected[prompt]);
      }
      CHECK(whole[1].abs_max_row == 39);
      CHECK(whole[1].first_non_finite_row == 29);
    }
  }
}

TEST_CASE("statistics are refused where prompts and rows disagree") {
  for (const auto& ops : test::devices()) {
    const test::OnDevice x(*ops, test::random(4, 8, Dtype::f32, 1));
    std::vector<Statistics> out(1);
    const std::vector<std::int64_t> short_rows = {0, 3}, two = {0, 1, 4}, all = {0, 4};
    const auto append = [&](const std::vector<std::int64_t>& cu_rows) {
      ops->append_statistics({.out = out, .x = x.tensor(), .cu_rows = cu_rows});
    };
    CHECK_THROWS_WITH_AS(append(short_rows), doctest::Contains("cu_rows goes from 0 to 3 where x is [4, 8]"), Error);
    CHECK_THROWS_WITH_AS(append(two), doctest::Contains("out has 1 prompts where cu_rows has 2"), Error);
    out[0].count = 12;
    CHECK_THROWS_WITH_AS(append(all), doctest::Contains("out has 12 elements where x is [4, 8]"), Error);
  }
}

TEST_CASE("rows put together are the statistics of all of them") {
  const Values x = test::integers(10, 40, Dtype::f32, 1, 100);
  const auto ops = device::cpu_ops();
  Statistics all;
  std::int64_t row = 0;
  for (const Statistics& statistics : row_statistics(*ops, x)) all.append(statistics, row++);
  double sum = 0, max = -1;
  for (const double value : x.data) {
    sum += value;
    max = std::max(max, std::abs(value));
  }
  CHECK(all.count == 400);
  CHECK(all.sum == sum);
  CHECK(all.abs_max == max);
  CHECK(std::abs(x.at(all.abs_max_row, all.abs_max_column)) == max);
}

}  // namespace layerprobe
