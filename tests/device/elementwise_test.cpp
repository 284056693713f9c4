#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "tests/support/formulas.h"

namespace layerprobe {
namespace {

using test::Values;

constexpr Dtype kDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};
constexpr std::int64_t kWidths[] = {1, 7, 8, 9, 31, 32, 33, 100, 576};  // around the vectors of every instruction set

Values silu_mul(device::Ops& ops, const Values& gate, const Values& up) {
  const test::OnDevice gate_there(ops, gate, 2);
  const test::OnDevice out(ops, test::nans(gate.rows, gate.columns, gate.dtype), 1);
  if (up.rows == 0) {
    ops.silu_mul({.out = out.tensor(), .gate = gate_there.tensor(), .up = {}});
    return out.values();
  }
  const test::OnDevice up_there(ops, up, 3);
  ops.silu_mul({.out = out.tensor(), .gate = gate_there.tensor(), .up = up_there.tensor()});
  return out.values();
}

Values rope(device::Ops& ops, const Values& x, const Values& cos, const Values& sin, std::int64_t head_dim,
            std::int64_t first = 0, bool interleaved = false) {
  const test::OnDevice x_there(ops, x, 4), cos_there(ops, cos), sin_there(ops, sin, 1);
  ops.rope({.x = x_there.tensor(),
            .cos = cos_there.tensor(),
            .sin = sin_there.tensor(),
            .head_dim = head_dim,
            .first = first,
            .interleaved = interleaved});
  return x_there.values();
}

Values one(Dtype dtype, double value) { return test::filled(1, 1, dtype, value); }

}  // namespace

TEST_CASE("add is the rounded sum, to the bit") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const std::int64_t width : kWidths) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(width);
        const Values a = test::random(5, width, dtype, 1), b = test::random(5, width, dtype, 2, 10);
        const test::OnDevice a_there(*ops, a, 2), b_there(*ops, b, 3), out(*ops, test::nans(5, width, dtype), 1);
        ops->add({.out = out.tensor(), .a = a_there.tensor(), .b = b_there.tensor()});
        CHECK(out.values() == test::add_in_f64(a, b));
        ops->add({.out = a_there.tensor(), .a = a_there.tensor(), .b = b_there.tensor()});
        CHECK(a_there.values() == test::add_in_f64(a, b));
      }
    }
  }
}

TEST_CASE("every f16 and bf16 number goes through an operation as base/float16.h has it") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
      std::vector<std::byte> bytes(2 * 0x10000);
      for (std::size_t i = 0; i < 0x10000; ++i) {
        bytes[2 * i] = static_cast<std::byte>(i & 0xff);
        bytes[2 * i + 1] = static_cast<std::byte>(i >> 8);
      }
      Values all = test::values_of(bytes.data(), dtype, 0x100, 0x100);
      for (double& value : all.data) value = std::isnan(value) ? 0 : value;
      for (const double other : {0.0, 1.0, -0.37}) {
        const test::OnDevice a(*ops, all), b(*ops, test::filled(0x100, 0x100, dtype, test::rounded(other, dtype)));
        ops->add({.out = a.tensor(), .a = a.tensor(), .b = b.tensor()});
        CHECK(a.values() == test::add_in_f64(all, test::filled(0x100, 0x100, dtype, test::rounded(other, dtype))));
      }
    }
  }
}

TEST_CASE("silu_mul agrees with the f64 formula on every device") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const std::int64_t width : kWidths) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(width);
        const Values gate = test::random(5, width, dtype, 1, 3), up = test::random(5, width, dtype, 2);
        CHECK(test::rel_l2(silu_mul(*ops, gate, up), test::silu_mul_in_f64(gate, up)) <= test::tolerance(dtype));
        CHECK(test::rel_l2(silu_mul(*ops, gate, {}), test::silu_mul_in_f64(gate, {})) <= test::tolerance(dtype));
      }
    }
  }
}

TEST_CASE("silu of f32 is within 4 ulp from -87 to 88, and right beyond") {
  for (const auto& ops : test::devices()) {
    Values gate = test::filled(1, 17501, Dtype::f32, 0);
    for (std::int64_t i = 0; i < gate.columns; ++i)
      gate.at(0, i) = static_cast<float>(-87 + 0.01 * static_cast<double>(i));
    const Values found = silu_mul(*ops, gate, {});
    for (std::int64_t i = 0; i < gate.columns; ++i) {
      const double x = gate.at(0, i), exact = x / (1 + std::exp(-x));
      CAPTURE(x);
      CHECK(std::abs(found.at(0, i) - exact) <= 4 * 0x1p-24 * std::abs(exact));
    }
    const double infinity = std::numeric_limits<double>::infinity();
    CHECK(silu_mul(*ops, one(Dtype::f32, 200), {}).at(0, 0) == 200);
    CHECK(silu_mul(*ops, one(Dtype::f32, -200), {}).at(0, 0) == 0);
    CHECK(silu_mul(*ops, one(Dtype::f32, infinity), {}).at(0, 0) == infinity);
    CHECK(std::isnan(silu_mul(*ops, one(Dtype::f32, std::nan("")), {}).at(0, 0)));
  }
}

TEST_CASE("rope is the rounded formula, to the bit, and leaves the columns beyond rotary_dim") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const auto& [head_dim, half] : {std::pair{2, 1}, {6, 3}, {64, 32}, {80, 20}, {33, 16}, {128, 64}}) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(head_dim);
        const Values x = test::random(5, 3 * head_dim, dtype, 1);
        const Values cos = test::random(5, half, dtype, 2, 0.5), sin = test::random(5, half, dtype, 3, 0.5);
        CHECK(rope(*ops, x, cos, sin, head_dim) == test::rope_in_f64(x, cos, sin, head_dim));
        for (const std::int64_t first : {std::int64_t{0}, std::int64_t{head_dim} - 2 * half}) {
          for (const bool interleaved : {false, true}) {
            CAPTURE(first);
            CAPTURE(interleaved);
            CHECK(rope(*ops, x, cos, sin, head_dim, first, interleaved) ==
                  test::rope_in_f64(x, cos, sin, head_dim, first, interleaved));
          }
        }
      }
    }
  }
}

TEST_CASE("expand_key_values deals each head its key, the part that all share, and its value") {
  struct Shape {
    std::int64_t heads, plain, rotated, value;
  };
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const Shape& s : {Shape{1, 1, 2, 1}, {3, 5, 6, 7}, {4, 16, 8, 24}, {2, 128, 64, 128}}) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(s.plain);
        const Values kv = test::random(5, s.heads * (s.plain + s.value), dtype, 1);
        const Values k_rot = test::random(5, s.rotated, dtype, 2);
        const test::OnDevice kv_there(*ops, kv, 8), rot_there(*ops, k_rot, 16);
        const test::OnDevice keys(*ops, test::nans(5, s.heads * (s.plain + s.rotated), dtype), 8);
        const test::OnDevice values(*ops, test::nans(5, s.heads * s.value, dtype), 1);
        ops->expand_key_values({.key_states = keys.tensor(),
                                .value_states = values.tensor(),
                                .kv = kv_there.tensor(),
                                .k_rot = rot_there.tensor(),
                                .num_heads = s.heads});
        const Values found_keys = keys.values(), found_values = values.values();
        for (std::int64_t t = 0; t < 5; ++t) {
          for (std::int64_t head = 0; head < s.heads; ++head) {
            const std::int64_t key = head * (s.plain + s.rotated), from = head * (s.plain + s.value);
            for (std::int64_t d = 0; d < s.plain; ++d) CHECK(found_keys.at(t, key + d) == kv.at(t, from + d));
            for (std::int64_t d = 0; d < s.rotated; ++d) CHECK(found_keys.at(t, key + s.plain + d) == k_rot.at(t, d));
            for (std::int64_t d = 0; d < s.value; ++d) {
              CHECK(found_values.at(t, head * s.value + d) == kv.at(t, from + s.plain + d));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("operations on heads name what does not fit") {
  for (const auto& ops : test::devices()) {
    const test::OnDevice keys(*ops, test::filled(2, 12, Dtype::f32, 0)),
        values(*ops, test::filled(2, 4, Dtype::f32, 0));
    const test::OnDevice kv(*ops, test::filled(2, 14, Dtype::f32, 0)), k_rot(*ops, test::filled(2, 2, Dtype::f32, 0));
    CHECK_THROWS_WITH_AS(ops->expand_key_values({.key_states = keys.tensor(),
                                                 .value_states = values.tensor(),
                                                 .kv = kv.tensor(),
                                                 .k_rot = k_rot.tensor(),
                                                 .num_heads = 2}),
                         doctest::Contains("num_heads is 2 where key_states is [2, 12] float32"), Error);
    CHECK_THROWS_WITH_AS(
        rope(*ops, test::filled(2, 12, Dtype::f32, 0), test::filled(2, 2, Dtype::f32, 0),
             test::filled(2, 2, Dtype::f32, 0), 6, 3),
        doctest::Contains("head_dim is 6 where x is [2, 12] float32 and cos is [2, 2] float32, from column 3"), Error);
  }
}

TEST_CASE("silu_mul and rope round between their steps, as the reference does") {
  for (const auto& ops : test::devices()) {
    // A product rounded once, at the end, would give -0.478515625 and -2.34375.
    CHECK(silu_mul(*ops, one(Dtype::bf16, 2.015625), one(Dtype::bf16, -0.26953125)).at(0, 0) == -0.48046875);
    Values x = test::filled(1, 2, Dtype::bf16, -2.84375);
    x.at(0, 1) = 0.248046875;
    CHECK(rope(*ops, x, one(Dtype::bf16, 0.765625), one(Dtype::bf16, 0.64453125), 2).at(0, 0) == -2.328125);
  }
}

TEST_CASE("mean_rows is the f64 mean of each prompt, to the bit") {
  const std::vector<std::int64_t> cu_seqlens = {0, 1, 38, 40};
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const std::int64_t width : kWidths) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(width);
        const Values x = test::random(40, width, dtype, 1);
        const test::OnDevice x_there(*ops, x, 3), out(*ops, test::nans(3, width, Dtype::f32), 2);
        ops->mean_rows({.out = out.tensor(), .x = x_there.tensor(), .cu_seqlens = cu_seqlens});
        CHECK(out.values() == test::mean_rows_in_f64(x, cu_seqlens));
      }
    }
  }
}

TEST_CASE("embedding copies the rows of the ids") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      const Values weight = test::random(11, 7, dtype, 1);
      const std::vector<std::int32_t> input_ids = {10, 0, 3, 3};
      const test::OnDevice weight_there(*ops, weight, 1), out(*ops, test::nans(4, 7, dtype), 2);
      ops->embedding({.out = out.tensor(), .weight = weight_there.tensor(), .input_ids = input_ids});
      for (std::int64_t t = 0; t < 4; ++t) {
        CHECK(test::rows_of(out.values(), t, 1) == test::rows_of(weight, input_ids[static_cast<std::size_t>(t)], 1));
      }
    }
  }
}

TEST_CASE("operations on no rows do nothing") {
  for (const auto& ops : test::devices()) {
    const test::OnDevice x(*ops, test::nans(0, 8, Dtype::bf16));
    ops->add({.out = x.tensor(), .a = x.tensor(), .b = x.tensor()});
    ops->silu_mul({.out = x.tensor(), .gate = x.tensor(), .up = x.tensor()});
    const std::vector<std::int64_t> no_rows = {0};
    ops->append_statistics({.out = {}, .x = x.tensor(), .cu_rows = no_rows});
    CHECK(x.values().rows == 0);
  }
}

TEST_CASE("operations name both shapes or the bad number in what they refuse") {
  for (const auto& ops : test::devices()) {
    const test::OnDevice narrow(*ops, test::random(7, 64, Dtype::f32, 1)),
        wide(*ops, test::random(7, 65, Dtype::f32, 1));
    const test::OnDevice half(*ops, test::random(7, 64, Dtype::bf16, 1)),
        table(*ops, test::random(7, 33, Dtype::f32, 1));
    CHECK_THROWS_WITH_AS(ops->add({.out = narrow.tensor(), .a = narrow.tensor(), .b = wide.tensor()}),
                         doctest::Contains("b is [7, 65] float32 where a is [7, 64] float32"), Error);
    CHECK_THROWS_WITH_AS(ops->silu_mul({.out = half.tensor(), .gate = narrow.tensor(), .up = {}}),
                         doctest::Contains("out is [7, 64] bfloat16 where gate is [7, 64] float32"), Error);
    CHECK_THROWS_WITH_AS(
        ops->rope({.x = narrow.tensor(), .cos = table.tensor(), .sin = table.tensor(), .head_dim = 64}),
        doctest::Contains("head_dim is 64 where x is [7, 64] float32 and cos is [7, 33] float32"), Error);
    const std::vector<std::int32_t> bad_ids = {1, 2, 3, 4, 5, 6, 7};
    CHECK_THROWS_WITH_AS(ops->embedding({.out = narrow.tensor(), .weight = narrow.tensor(), .input_ids = bad_ids}),
                         doctest::Contains("input id 7 where weight is [7, 64] float32"), Error);
  }
}

TEST_CASE("more memory than there is is an error and not the end") {
  for (const auto& ops : test::devices()) {
    CHECK_THROWS_WITH_AS(ops->allocate(std::size_t{1} << 60), doctest::Contains("1152921504606846976 bytes"), Error);
    CHECK_THROWS_AS(ops->allocate(~std::size_t{0}), Error);
  }
}

}  // namespace layerprobe
