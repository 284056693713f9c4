#include <doctest/doctest.h>

#include "base/error.h"
#include "tests/support/formulas.h"

namespace layerprobe {
namespace {

using test::Values;

Values rms_norm(device::Ops& ops, const Values& x, const Values& weight, double rms_norm_eps) {
  const test::OnDevice x_there(ops, x, 3), weight_there(ops, weight);
  const test::OnDevice out(ops, test::nans(x.rows, x.columns, x.dtype), 1);
  ops.rms_norm({.out = out.tensor(),
                .hidden_states = x_there.tensor(),
                .weight = weight_there.tensor(),
                .rms_norm_eps = rms_norm_eps});
  return out.values();
}

}  // namespace

TEST_CASE("rms_norm agrees with the f64 formula on every device") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
      for (const std::int64_t size : {1, 15, 16, 17, 31, 64, 65, 576, 8192}) {
        for (const std::int64_t groups : {1, 3}) {
          CAPTURE(ops->code_path());
          CAPTURE(name_of(dtype));
          CAPTURE(size);
          const Values x = test::random(4, groups * size, dtype, 1, 4), weight = test::random(1, size, dtype, 2);
          CHECK(test::rel_l2(rms_norm(*ops, x, weight, 1e-5), test::rms_norm_in_f64(x, weight, 1e-5)) <=
                test::tolerance(dtype));
        }
      }
    }
  }
}

TEST_CASE("rms_norm in place gives the same bits") {
  for (const auto& ops : test::devices()) {
    const Values x = test::random(4, 70, Dtype::bf16, 1), weight = test::random(1, 70, Dtype::bf16, 2);
    const test::OnDevice x_there(*ops, x), weight_there(*ops, weight);
    ops->rms_norm({.out = x_there.tensor(),
                   .hidden_states = x_there.tensor(),
                   .weight = weight_there.tensor(),
                   .rms_norm_eps = 1e-6});
    CHECK(x_there.values() == rms_norm(*ops, x, weight, 1e-6));
  }
}

TEST_CASE("add_rms_norm has the bits of add and then rms_norm") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
      for (const std::int64_t size : {1, 17, 64, 576, 4096, 20000}) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(size);
        const Values a = test::random(5, size, dtype, 1), b = test::random(5, size, dtype, 2, 3);
        const Values weight = test::random(1, size, dtype, 3), expected = test::add_in_f64(a, b);
        const test::OnDevice a_there(*ops, a, 1), b_there(*ops, b), weight_there(*ops, weight);
        const test::OnDevice sum(*ops, test::nans(5, size, dtype), 2), normed(*ops, test::nans(5, size, dtype));
        ops->add_rms_norm({.sum = sum.tensor(),
                           .normed = normed.tensor(),
                           .a = a_there.tensor(),
                           .b = b_there.tensor(),
                           .weight = weight_there.tensor(),
                           .rms_norm_eps = 1e-6});
        CHECK(sum.values() == expected);
        CHECK(normed.values() == rms_norm(*ops, expected, weight, 1e-6));
        ops->add_rms_norm({.sum = a_there.tensor(),
                           .normed = normed.tensor(),
                           .a = a_there.tensor(),
                           .b = b_there.tensor(),
                           .weight = weight_there.tensor(),
                           .rms_norm_eps = 1e-6});
        CHECK(a_there.values() == expected);
      }
    }
  }
}

TEST_CASE("rms_norm rounds before it multiplies by the weight, as the reference does") {
  for (const auto& ops : test::devices()) {
    // The row's scale is 0.4361 for the first column: the second makes the mean square 1 / 0.4361^2.
    Values x = test::filled(1, 2, Dtype::bf16, -2.4375), weight = test::filled(1, 2, Dtype::bf16, 0.52734375);
    const double mean_square = 1 / (0.4361 * 0.4361);
    const double rms_norm_eps = mean_square - 2.4375 * 2.4375 / 2;  // the second column is 0
    x.at(0, 1) = 0;
    CHECK(rms_norm(*ops, x, weight, rms_norm_eps).at(0, 0) == -0.55859375);  // -0.5625 if rounded once
  }
}

TEST_CASE("a row of zeros stays zero") {
  for (const auto& ops : test::devices()) {
    const Values zeros = test::filled(2, 33, Dtype::f16, 0);
    CHECK(rms_norm(*ops, zeros, test::random(1, 33, Dtype::f16, 1), 1e-6) == zeros);
  }
}

TEST_CASE("add_rms_norm names both shapes when b has another width") {
  for (const auto& ops : test::devices()) {
    const test::OnDevice narrow(*ops, test::random(7, 64, Dtype::f32, 1)),
        wide(*ops, test::random(7, 65, Dtype::f32, 1));
    const test::OnDevice weight(*ops, test::random(1, 64, Dtype::f32, 1));
    CHECK_THROWS_WITH_AS(ops->add_rms_norm({.sum = narrow.tensor(),
                                            .normed = narrow.tensor(),
                                            .a = narrow.tensor(),
                                            .b = wide.tensor(),
                                            .weight = weight.tensor(),
                                            .rms_norm_eps = 1e-6}),
                         doctest::Contains("b is [7, 65] float32 where a is [7, 64] float32"), Error);
  }
}

TEST_CASE("rms_norm names both shapes when the weight has another length") {
  for (const auto& ops : test::devices()) {
    CHECK_THROWS_WITH_AS(rms_norm(*ops, test::random(7, 65, Dtype::f32, 1), test::random(1, 64, Dtype::f32, 1), 1e-6),
                         doctest::Contains("weight is [1, 64] float32 where hidden_states is [7, 65] float32"), Error);
  }
}

}  // namespace layerprobe
