#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "tests/support/formulas.h"

namespace layerprobe {
namespace {

using test::AttentionInputs;
using test::Values;

struct Shape {
  std::vector<std::int64_t> lengths;
  std::int64_t heads, key_value_heads, head_dim, sliding_window;
  std::int64_t value_head_dim = 0;  // 0: head_dim
};

AttentionInputs inputs_of(const Shape& shape, Dtype dtype) {
  AttentionInputs inputs;
  inputs.cu_seqlens = {0};
  for (const std::int64_t length : shape.lengths) inputs.cu_seqlens.push_back(inputs.cu_seqlens.back() + length);
  const std::int64_t tokens = inputs.cu_seqlens.back();
  inputs.query_states = test::random(tokens, shape.heads * shape.head_dim, dtype, 1);
  inputs.key_states = test::random(tokens, shape.key_value_heads * shape.head_dim, dtype, 2);
  const std::int64_t value_head_dim = shape.value_head_dim > 0 ? shape.value_head_dim : shape.head_dim;
  inputs.value_states = test::random(tokens, shape.key_value_heads * value_head_dim, dtype, 3);
  inputs.head_dim = shape.head_dim;
  inputs.scaling = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  inputs.sliding_window = shape.sliding_window;
  return inputs;
}

Values attention(device::Ops& ops, const AttentionInputs& inputs, std::int64_t gap = 0) {
  const test::OnDevice query(ops, inputs.query_states, gap), key(ops, inputs.key_states, gap);
  const test::OnDevice value(ops, inputs.value_states, gap);
  const std::int64_t out_columns =
      inputs.query_states.columns / inputs.key_states.columns * inputs.value_states.columns;
  const test::OnDevice out(ops, test::nans(inputs.query_states.rows, out_columns, inputs.query_states.dtype), gap);
  ops.attention({.out = out.tensor(),
                 .query_states = query.tensor(),
                 .key_states = key.tensor(),
                 .value_states = value.tensor(),
                 .cu_seqlens = inputs.cu_seqlens,
                 .head_dim = inputs.head_dim,
                 .scaling = inputs.scaling,
                 .sliding_window = inputs.sliding_window});
  return out.values();
}

/// The part of the inputs that is one prompt.
AttentionInputs prompt_of(const AttentionInputs& inputs, std::size_t prompt) {
  const std::int64_t begin = inputs.cu_seqlens[prompt], count = inputs.cu_seqlens[prompt + 1] - begin;
  return {.query_states = test::rows_of(inputs.query_states, begin, count),
          .key_states = test::rows_of(inputs.key_states, begin, count),
          .value_states = test::rows_of(inputs.value_states, begin, count),
          .cu_seqlens = {0, count},
          .head_dim = inputs.head_dim,
          .scaling = inputs.scaling,
          .sliding_window = inputs.sliding_window};
}

}  // namespace

TEST_CASE("attention agrees with the f64 formula on every device") {
  const std::vector<Shape> shapes = {
      {{1}, 1, 1, 1, 0},          {{7, 1, 0, 12}, 3, 1, 5, 0}, {{65}, 2, 2, 31, 0},   {{33, 64}, 4, 2, 64, 0},
      {{300, 17}, 2, 1, 64, 0},   {{530}, 1, 1, 33, 0},        {{300}, 2, 1, 16, 1},  {{70, 300}, 2, 1, 24, 40},
      {{600}, 1, 1, 128, 257},    {{64, 64, 64}, 9, 3, 64, 0}, {{257}, 2, 1, 80, 0},  {{129, 200}, 2, 2, 96, 130},
      {{270, 3}, 2, 1, 192, 0},   {{130, 300}, 2, 1, 256, 0},  {{400}, 4, 1, 128, 0}, {{270, 3}, 2, 2, 192, 0, 128},
      {{70, 5}, 3, 1, 13, 0, 40}, {{300}, 2, 2, 20, 33, 7}};
  const auto devices = test::devices();
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (const Shape& shape : shapes) {
      const AttentionInputs inputs = inputs_of(shape, dtype);
      const Values expected = test::attention_in_f64(inputs);
      for (const auto& ops : devices) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(shape.head_dim);
        CAPTURE(shape.sliding_window);
        CHECK(test::rel_l2(attention(*ops, inputs, 3), expected) <= test::tolerance(dtype));
      }
    }
  }
}

TEST_CASE("attention of a prompt does not depend on its neighbours") {
  const std::vector<Shape> shapes = {{{5, 300, 1, 70}, 4, 2, 20, 0},
                                     {{40, 0, 129, 400, 128}, 4, 1, 64, 0},
                                     {{3, 385, 64}, 2, 2, 128, 100},
                                     {{40, 0, 129, 3}, 2, 2, 24, 0, 16}};
  const auto devices = test::devices();
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (const Shape& shape : shapes) {
      const AttentionInputs inputs = inputs_of(shape, dtype);
      for (const auto& ops : devices) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(shape.head_dim);
        const Values all = attention(*ops, inputs);
        for (std::size_t prompt = 0; prompt + 1 < inputs.cu_seqlens.size(); ++prompt) {
          const AttentionInputs alone = prompt_of(inputs, prompt);
          CHECK(attention(*ops, alone) == test::rows_of(all, inputs.cu_seqlens[prompt], alone.cu_seqlens[1]));
        }
      }
    }
  }
}

TEST_CASE("attention of a token does not depend on what comes after it") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      const AttentionInputs inputs = inputs_of({{290}, 2, 1, 20, 0}, dtype);
      const Values all = attention(*ops, inputs);
      for (const std::int64_t count : {1, 7, 8, 63, 64, 65, 257}) {
        AttentionInputs other = inputs_of({{290}, 2, 1, 20, 0}, dtype);
        for (Values* values : {&other.query_states, &other.key_states, &other.value_states}) {
          for (std::int64_t i = count * values->columns; i < values->rows * values->columns; ++i) {
            values->data[static_cast<std::size_t>(i)] *= -2;
          }
        }
        CHECK(test::rows_of(attention(*ops, other), 0, count) == test::rows_of(all, 0, count));
      }
    }
  }
}

TEST_CASE("a NaN in a value reaches the tokens that see it and no other") {
  for (const auto& ops : test::devices()) {
    for (const auto& [window, dtype] :
         {std::pair{0, Dtype::f32}, {10, Dtype::f32}, {0, Dtype::bf16}, {11, Dtype::bf16}}) {
      CAPTURE(ops->code_path());
      CAPTURE(name_of(dtype));
      AttentionInputs inputs = inputs_of({{90}, 2, 1, 20, window}, dtype);
      const Values before = attention(*ops, inputs);
      inputs.value_states.at(41, 3) = std::numeric_limits<double>::quiet_NaN();
      inputs.value_states.at(41, 4) = std::numeric_limits<double>::infinity();
      const Values after = attention(*ops, inputs);
      for (std::int64_t t = 0; t < 90; ++t) {
        const bool sees = t >= 41 && (window == 0 || t < 41 + window);
        for (std::int64_t c = 0; c < 40; ++c) {
          CAPTURE(t);
          CAPTURE(c);
          if (sees && (c % 20 == 3 || c % 20 == 4)) {
            CHECK_FALSE(std::isfinite(after.at(t, c)));
          } else {
            CHECK(after.at(t, c) == before.at(t, c));
          }
        }
      }
    }
  }
}

TEST_CASE("a NaN in a key reaches the tokens that see it and no other") {
  for (const auto& ops : test::devices()) {
    for (const auto& [window, dtype] :
         {std::pair{0, Dtype::f64}, {0, Dtype::f32}, {10, Dtype::f32}, {0, Dtype::bf16}, {11, Dtype::bf16}}) {
      CAPTURE(ops->code_path());
      CAPTURE(name_of(dtype));
      AttentionInputs inputs = inputs_of({{90}, 2, 1, 20, window}, dtype);
      const Values before = attention(*ops, inputs);
      inputs.key_states.at(41, 3) = std::numeric_limits<double>::quiet_NaN();
      const Values after = attention(*ops, inputs);
      for (std::int64_t t = 0; t < 90; ++t) {
        CAPTURE(t);
        if (t >= 41 && (window == 0 || t < 41 + window)) {
          CHECK_FALSE(std::isfinite(after.at(t, 7)));
        } else {
          CHECK(test::rows_of(after, t, 1) == test::rows_of(before, t, 1));
        }
      }
    }
  }
}

TEST_CASE("heads wider than a GPU's kernels take are refused") {
  for (const auto& ops : test::devices()) {
    if (ops->name() == "cpu") continue;
    CHECK_THROWS_WITH_AS(attention(*ops, inputs_of({{4}, 1, 1, 264, 0}, Dtype::bf16)),
                         doctest::Contains("head_dim is 264; the GPU takes up to 256"), Error);
  }
}

TEST_CASE("attention to equal values gives that value") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
      AttentionInputs inputs = inputs_of({{100}, 1, 1, 8, 0}, dtype);
      inputs.value_states = test::filled(100, 8, dtype, 1.25);
      CHECK(attention(*ops, inputs) == inputs.value_states);
    }
  }
}

TEST_CASE("attention to values that are not as wide as keys rounds nothing but its result on the CPU") {
  for (const auto& ops : test::devices()) {
    if (ops->name() != "cpu") continue;
    CAPTURE(ops->code_path());
    for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
      for (const Shape& shape : std::vector<Shape>{{{40, 9}, 3, 3, 24, 0, 12}, {{70}, 2, 1, 13, 0, 40}}) {
        const AttentionInputs inputs = inputs_of(shape, dtype);
        const Values out = attention(*ops, inputs), expected = test::attention_in_f64(inputs);
        std::size_t others = 0;  // of f32 sums in another order; 30% where the exponentials are rounded
        for (std::size_t i = 0; i < out.data.size(); ++i) others += out.data[i] != expected.data[i];
        CHECK(others * 100 <= out.data.size());
      }
    }
  }
}

TEST_CASE("attention names both shapes when keys and queries disagree") {
  for (const auto& ops : test::devices()) {
    AttentionInputs inputs = inputs_of({{4}, 3, 1, 8, 0}, Dtype::f32);
    inputs.key_states = inputs.value_states = test::random(4, 16, Dtype::f32, 1);
    CHECK_THROWS_WITH_AS(attention(*ops, inputs),
                         doctest::Contains("query_states is [4, 24] float32 and key_states is [4, 16] float32"), Error);
    inputs = inputs_of({{4}, 4, 2, 8, 0}, Dtype::f32);
    inputs.value_states = test::random(4, 9, Dtype::f32, 1);
    CHECK_THROWS_WITH_AS(attention(*ops, inputs),
                         doctest::Contains("value_states is [4, 9] float32 where key_states is [4, 16] float32"),
                         Error);
    inputs = inputs_of({{4}, 3, 1, 8, 0}, Dtype::f32);
    inputs.cu_seqlens = {0, 3};
    CHECK_THROWS_WITH_AS(attention(*ops, inputs), doctest::Contains("cu_seqlens goes from 0 to 3"), Error);
  }
}

}  // namespace layerprobe
