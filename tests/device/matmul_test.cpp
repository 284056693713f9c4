#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "device/backends.h"
#include "device/cpu/onednn.h"
#include "tests/support/formulas.h"
#include "tests/support/stored_file.h"
#include "tests/support/temp_folder.h"

namespace layerprobe {
namespace {

using test::Values;

const Values kNoBias = {};

std::unique_ptr<device::MatMulWeight> weight_on(device::Ops& ops, const std::vector<Values>& weights,
                                                const std::vector<Values>& biases = {}) {
  test::StoredFile file;
  device::Ops::MatMulWeightParts parts{.dtype = weights.front().dtype, .weights = {}};
  for (const Values& values : weights) parts.weights.push_back(file.add(values));
  for (const Values& values : biases) {
    parts.biases.push_back(values.rows == 0 ? std::nullopt : std::optional(file.add(values)));
  }
  auto weight = ops.matmul_weight(parts);
  ops.finish_loads([](std::uint64_t) {});
  return weight;
}

Values matmul(device::Ops& ops, const Values& x, const device::MatMulWeight& weight, std::int64_t gap = 0) {
  const test::OnDevice x_there(ops, x, gap);
  const test::OnDevice out(ops, test::nans(x.rows, weight.out_features(), x.dtype), gap);
  ops.matmul({.out = out.tensor(), .x = x_there.tensor(), .weight = weight});
  return out.values();
}

}  // namespace

TEST_CASE("matmul agrees with the f64 formula on every device") {
  const auto devices = test::devices();
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (const std::int64_t in : {1, 31, 48, 130}) {
      for (const std::int64_t out : {1, 31, 48, 300}) {
        const Values x = test::random(67, in, dtype, 1), w = test::random(out, in, dtype, 2);
        const Values bias = test::random(1, out, dtype, 3);
        const Values without = test::matmul_in_f64(x, w, kNoBias), with = test::matmul_in_f64(x, w, bias);
        for (const auto& ops : devices) {
          CAPTURE(ops->code_path());
          CAPTURE(name_of(dtype));
          CAPTURE(in);
          CAPTURE(out);
          CHECK(test::rel_l2(matmul(*ops, x, *weight_on(*ops, {w}), 5), without) <= test::tolerance(dtype));
          CHECK(test::rel_l2(matmul(*ops, x, *weight_on(*ops, {w}, {bias})), with) <= test::tolerance(dtype));
        }
      }
    }
  }
}

TEST_CASE("matmul of small integers is exact") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
      CAPTURE(ops->code_path());
      CAPTURE(name_of(dtype));
      const Values x = test::integers(70, 200, dtype, 1, 1), w = test::integers(77, 200, dtype, 2, 1);
      const Values bias = test::integers(1, 77, dtype, 3, 5);
      CHECK(matmul(*ops, x, *weight_on(*ops, {w}, {bias})) == test::matmul_in_f64(x, w, bias));
    }
  }
}

TEST_CASE("the bias is added before the one rounding") {
  for (const auto& ops : test::devices()) {
    // 256 + 1 is a tie in bf16 and rounds to 256; with the bias of 1 the sum is 258 exactly.
    const Values two = test::filled(1, 2, Dtype::bf16, 1), bias = test::filled(1, 1, Dtype::bf16, 1);
    Values w = test::filled(1, 2, Dtype::bf16, 256);
    w.at(0, 1) = 1;
    CHECK(matmul(*ops, two, *weight_on(*ops, {w}, {bias})).at(0, 0) == 258);
    CHECK(matmul(*ops, two, *weight_on(*ops, {w})).at(0, 0) == 256);
  }
}

TEST_CASE("stacked weights give the columns of each, with zeros for a missing bias") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
      const Values x = test::random(9, 40, dtype, 1);
      const std::vector<Values> weights = {test::random(250, 40, dtype, 2), test::random(3, 40, dtype, 3),
                                           test::random(130, 40, dtype, 4)};
      const std::vector<Values> biases = {test::random(1, 250, dtype, 5), kNoBias, test::random(1, 130, dtype, 6)};
      const Values all = matmul(*ops, x, *weight_on(*ops, weights, biases));
      std::int64_t first = 0;
      for (std::size_t part = 0; part < weights.size(); ++part) {
        Values expected = test::matmul_in_f64(x, weights[part], biases[part]);
        Values found = expected;
        for (std::int64_t t = 0; t < 9; ++t) {
          for (std::int64_t j = 0; j < found.columns; ++j) found.at(t, j) = all.at(t, first + j);
        }
        CHECK(test::rel_l2(found, expected) <= test::tolerance(dtype));
        first += weights[part].rows;
      }
    }
  }
}

TEST_CASE("a row of a product has the same bits whatever the batch and its place in it") {
  struct Case {
    std::int64_t in, out;
    std::vector<Dtype> dtypes;
  };
  // Real sizes where a library multiplies; the others go the same way through our own loops at any size.
  const std::vector<Dtype> library = {Dtype::bf16}, all = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};
  const std::vector<Case> cases = {{1, 31, all},         {31, 1, all},        {48, 48, all},
                                   {77, 331, all},       {576, 960, library}, {576, 576, library},
                                   {1536, 576, library}, {1, 1536, library},  {600, 70, all}};
  const std::vector<std::pair<std::int64_t, std::int64_t>> parts = {{0, 1},  {63, 1},  {1099, 1}, {3, 5},   {17, 31},
                                                                    {5, 64}, {64, 64}, {1, 65},   {9, 127}, {8, 513}};
  const auto devices = test::devices();
  for (const Case& shape : cases) {
    for (const Dtype dtype : shape.dtypes) {
      const Values w = test::random(shape.out, shape.in, dtype, 2), x = test::random(1100, shape.in, dtype, 1);
      for (const auto& ops : devices) {
        // The products of the slower instruction sets are the second device's.
        const bool is_slow = ops->name() == "cpu" && ops != devices[0] && ops != devices[1];
        if (shape.in * shape.out > 100'000 && is_slow) continue;
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(shape.in);
        CAPTURE(shape.out);
        const auto weight = weight_on(*ops, {w});
        const test::OnDevice x_there(*ops, x), out(*ops, test::nans(x.rows, shape.out, dtype));
        const auto product_bytes = [&](std::int64_t first, std::int64_t count) {
          const device::Tensor rows = out.tensor().row_slice(0, count);
          ops->matmul({.out = rows, .x = x_there.tensor().row_slice(first, count), .weight = *weight});
          std::vector<std::byte> bytes(static_cast<std::size_t>(count * shape.out) * size_of(dtype));
          ops->copy_to_host(bytes.data(), rows);
          return bytes;
        };
        const std::vector<std::byte> whole = product_bytes(0, x.rows);
        for (const auto& [first, count] : parts) {
          CAPTURE(first);
          CAPTURE(count);
          const std::vector<std::byte> part = product_bytes(first, count);
          const std::size_t place = static_cast<std::size_t>(first * shape.out) * size_of(dtype);
          CHECK(std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(place)));
        }
      }
    }
  }
}

TEST_CASE("a row of a product has the same bits whatever the batch on each GPU at the sizes of a model") {
  for (const auto& ops : test::devices()) {
    if (ops->name() == "cpu") continue;
    for (const auto& [in, out, dtype, has_bias] : {std::tuple{4096, 1536, Dtype::bf16, false},
                                                   {1536, 4096, Dtype::bf16, true},
                                                   {4096, 1024, Dtype::f16, true},
                                                   {2048, 1024, Dtype::f32, true},
                                                   {2048, 1024, Dtype::f64, false}}) {
      CAPTURE(name_of(dtype));
      CAPTURE(in);
      const std::int64_t tokens = 5000;
      const auto weight =
          weight_on(*ops, {test::random(out, in, dtype, 1)}, {has_bias ? test::random(1, out, dtype, 2) : kNoBias});
      const test::OnDevice x(*ops, test::random(tokens, in, dtype, 3));
      const auto product = [&](std::int64_t first, std::int64_t count) {
        const test::OnDevice there(*ops, test::nans(count, out, dtype));
        ops->matmul({.out = there.tensor(), .x = x.tensor().row_slice(first, count), .weight = *weight});
        return there.values();
      };
      const Values whole = product(0, tokens);
      for (const auto& [first, count] :
           {std::pair{0, 1}, {4999, 1}, {77, 7}, {1000, 64}, {3, 129}, {700, 1000}, {904, 4096}}) {
        CAPTURE(first);
        CAPTURE(count);
        CHECK(product(first, count) == test::rows_of(whole, first, count));
      }
    }
  }
}

TEST_CASE("a device that is given another's choices multiplies alike, and damaged choices are refused") {
  for (const auto& ops : test::devices()) {
    const std::vector<device::Ops::MatMulShape> shapes = {{48, 131, Dtype::bf16, false}, {48, 131, Dtype::f32, true}};
    const std::string choices = ops->matmul_choices(shapes);
    CHECK(ops->matmul_choices(shapes) == choices);
    if (ops->name() == "cpu") {
      CHECK(choices.empty());
      continue;
    }
    const auto other = device::open_device(ops->name(), {.cache_folder = {}});
    other->use_matmul_choices(choices);
    CHECK(other->matmul_choices(shapes) == choices);
    const Values x = test::random(40, 48, Dtype::bf16, 1), w = test::random(131, 48, Dtype::bf16, 2);
    CHECK(matmul(*other, x, *weight_on(*other, {w})) == matmul(*ops, x, *weight_on(*ops, {w})));
    CHECK_THROWS_WITH_AS(other->use_matmul_choices("bfloat16[131,48]=12"),
                         doctest::Contains("\"bfloat16[131,48]=12\" is no shape and algorithm"), Error);
  }
}

TEST_CASE("a GPU's choices are remembered in the cache folder and a damaged file there is no hindrance") {
  for (const device::DeviceInfo& gpu : device::gpus()) {
    if (!gpu.is_supported) continue;
    const test::TempFolder folder;
    const std::vector<device::Ops::MatMulShape> shapes = {{64, 192, Dtype::bf16, false}};
    const std::string choices = device::open_device(gpu.name, {.cache_folder = folder.path()})->matmul_choices(shapes);
    std::filesystem::path file;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) file = entry.path();
    CHECK(read_text_file(file) == choices + "\n");
    CHECK(device::open_device(gpu.name, {.cache_folder = folder.path()})->matmul_choices(shapes) == choices);
    std::ofstream(file) << "bfloat16[192,64]=" << std::string(128, 'f') << "\nnonsense\n";
    const std::string again = device::open_device(gpu.name, {.cache_folder = folder.path()})->matmul_choices(shapes);
    CHECK(again.starts_with("bfloat16[192,64]="));
    CHECK_FALSE(again.ends_with("ffff"));
  }
}

TEST_CASE("a row's place in a tile does not change its bits where oneDNN multiplies") {
  if (!device::cpu::onednn_has_bf16()) return;  // our own loops multiply
  device::cpu::OneDnn library;
  for (const std::int64_t in : {1, 2, 31, 48, 64, 100, 576, 1000, 1536, 4096}) {
    for (const std::int64_t out : {1, 8, 31, 48, 64, 131, 192, 256, 500}) {
      CAPTURE(in);
      CAPTURE(out);
      CHECK(device::cpu::TiledProduct(library, in, out).rows_agree());
    }
  }
}

TEST_CASE("the number of threads does not change a product") {
  const Values x = test::random(200, 96, Dtype::bf16, 1), w = test::random(700, 96, Dtype::bf16, 2);
  const auto one = device::cpu_ops(1), two = device::cpu_ops(2), five = device::cpu_ops(5);
  const Values expected = matmul(*one, x, *weight_on(*one, {w}));
  CHECK(matmul(*two, x, *weight_on(*two, {w})) == expected);
  CHECK(matmul(*five, x, *weight_on(*five, {w})) == expected);
}

TEST_CASE("matmul names both shapes when x has another width") {
  for (const auto& ops : test::devices()) {
    const auto weight = weight_on(*ops, {test::random(3, 64, Dtype::f32, 1)});
    CHECK_THROWS_WITH_AS(matmul(*ops, test::random(7, 65, Dtype::f32, 1), *weight),
                         doctest::Contains("weight is [3, 64] float32 where x is [7, 65] float32"), Error);
    CHECK_THROWS_WITH_AS(weight_on(*ops, {test::random(3, 64, Dtype::f32, 1)}, {test::random(1, 4, Dtype::f32, 1)}),
                         doctest::Contains("bias is [1, 4] float32 where weight is [3, 64] float32"), Error);
  }
}

}  // namespace layerprobe
