#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "base/error.h"
#include "tests/support/formulas.h"
#include "tests/support/stored_file.h"
#include "weights/read_scaled.h"

namespace layerprobe {
namespace {

using test::Values;

constexpr Dtype kDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};

Dtype weights_dtype(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

test::Routed route_tokens(device::Ops& ops, const test::RouteInputs& in) {
  const Dtype weights = weights_dtype(in.router_logits.dtype);
  const std::int64_t tokens = in.router_logits.rows;
  const test::OnDevice logits(ops, in.router_logits, 3);
  std::optional<test::OnDevice> bias;
  if (in.selection_bias.rows > 0) bias.emplace(ops, in.selection_bias);
  const test::OnDevice indices(ops, test::nans(tokens, in.num_choices, Dtype::i32), 1);
  const test::OnDevice topk_weights(ops, test::nans(tokens, in.num_choices, weights), 2);
  ops.route_tokens({.topk_indices = indices.tensor(),
                    .topk_weights = topk_weights.tensor(),
                    .router_logits = logits.tensor(),
                    .selection_bias = bias ? bias->tensor() : device::Tensor{},
                    .scores = in.is_sigmoid ? device::Ops::Scores::sigmoid : device::Ops::Scores::softmax,
                    .normalizes = in.normalizes,
                    .rounds_weights = in.rounds_weights,
                    .num_groups = in.num_groups,
                    .topk_groups = in.topk_groups,
                    .divisor_epsilon = in.divisor_epsilon,
                    .scaling_factor = in.scaling_factor});
  return {.indices = indices.values(), .weights = topk_weights.values()};
}

test::Grouped group_by_expert(device::Ops& ops, const Values& topk_indices, std::int64_t num_experts) {
  const test::OnDevice indices(ops, topk_indices, 1);
  const test::OnDevice rows(ops, test::nans(topk_indices.rows, topk_indices.columns, Dtype::i32), 2);
  const test::OnDevice tokens(ops, test::nans(topk_indices.rows * topk_indices.columns, 1, Dtype::i32));
  std::vector<std::int64_t> first_rows(static_cast<std::size_t>(num_experts) + 1, -1);
  ops.group_by_expert({.row_of_choice = rows.tensor(),
                       .token_of_row = tokens.tensor(),
                       .topk_indices = indices.tensor(),
                       .first_rows = first_rows});
  return {.row_of_choice = rows.values(), .token_of_row = tokens.values(), .first_rows = first_rows};
}

/// Choices as a router makes them: none twice in a row.
Values random_choices(std::int64_t tokens, std::int64_t num_experts, std::int64_t num_choices, std::uint64_t seed) {
  return test::route_tokens_in_f64({.router_logits = test::random(tokens, num_experts, Dtype::f64, seed),
                                    .selection_bias = {},
                                    .is_sigmoid = false,
                                    .normalizes = true,
                                    .rounds_weights = false,
                                    .num_choices = num_choices})
      .indices;
}

void check_grouping(device::Ops& ops, const Values& choices, std::int64_t num_experts) {
  const test::Grouped ours = group_by_expert(ops, choices, num_experts);
  const test::Grouped plain = test::group_by_expert_plainly(choices, num_experts);
  CHECK(ours.first_rows == plain.first_rows);
  CHECK(ours.row_of_choice == plain.row_of_choice);
  CHECK(ours.token_of_row == plain.token_of_row);
}

}  // namespace

TEST_CASE("route_tokens agrees with the f64 formula on every device") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const std::int64_t num_experts : {1, 5, 32, 33, 256, 1000}) {
        for (const bool is_sigmoid : {false, true}) {
          CAPTURE(ops->code_path());
          CAPTURE(name_of(dtype));
          CAPTURE(num_experts);
          CAPTURE(is_sigmoid);
          // Multiples of 1/4 apart by 1/4: no two scores round to one, and the choice is the formula's.
          Values logits = test::filled(9, num_experts, dtype, 0);
          for (std::int64_t t = 0; t < logits.rows; ++t) {
            for (std::int64_t e = 0; e < num_experts; ++e) {
              const std::int64_t rank = (e * 7919 + t * 31) % num_experts;
              logits.at(t, e) = 4 - 0.25 * static_cast<double>(std::min<std::int64_t>(rank, 40));
            }
          }
          test::RouteInputs in{
              .router_logits = logits,
              .selection_bias = is_sigmoid ? test::integers(1, num_experts, weights_dtype(dtype), 3, 2) : Values{},
              .is_sigmoid = is_sigmoid,
              .normalizes = num_experts % 2 == 1,
              .rounds_weights = num_experts > 32,
              .num_choices = std::min<std::int64_t>(num_experts, 8)};
          const test::Routed ours = route_tokens(*ops, in), exact = test::route_tokens_in_f64(in);
          CHECK(ours.indices == exact.indices);
          CHECK(test::rel_l2(ours.weights, exact.weights) <=
                test::tolerance(in.rounds_weights ? dtype : weights_dtype(dtype)));
        }
      }
    }
  }
}

TEST_CASE("route_tokens chooses among the experts of the best groups") {
  struct Case {
    std::int64_t num_experts, num_groups, topk_groups, num_choices;
  };
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
      for (const Case& c : {Case{8, 4, 2, 3}, {6, 3, 1, 1}, {6, 2, 2, 5}, {256, 8, 4, 8}, {66, 3, 2, 44}}) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(c.num_experts);
        const test::RouteInputs in{.router_logits = test::random(40, c.num_experts, dtype, 1, 2),
                                   .selection_bias = test::random(1, c.num_experts, dtype, 2, 0.3),
                                   .is_sigmoid = true,
                                   .normalizes = true,
                                   .rounds_weights = false,
                                   .num_choices = c.num_choices,
                                   .num_groups = c.num_groups,
                                   .topk_groups = c.topk_groups,
                                   .divisor_epsilon = 1e-20,
                                   .scaling_factor = 2.5};
        const test::Routed ours = route_tokens(*ops, in), exact = test::route_tokens_in_f64(in);
        CHECK(ours.indices == exact.indices);
        CHECK(test::rel_l2(ours.weights, exact.weights) <= test::tolerance(dtype));
        test::RouteInputs ungrouped = in;
        ungrouped.num_groups = ungrouped.topk_groups = 1;
        if (c.topk_groups < c.num_groups) CHECK(test::route_tokens_in_f64(ungrouped).indices != exact.indices);
      }
    }
  }
}

TEST_CASE("a group is as good as its two best experts together, and the lower goes first among equals") {
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    test::RouteInputs in{.router_logits = test::filled(1, 6, Dtype::f32, 0),
                         .selection_bias = test::filled(1, 6, Dtype::f32, 0),
                         .is_sigmoid = true,
                         .normalizes = false,
                         .rounds_weights = false,
                         .num_choices = 2,
                         .num_groups = 3,
                         .topk_groups = 1};
    const auto chosen = [&](std::initializer_list<double> bias) {
      std::copy(bias.begin(), bias.end(), in.selection_bias.data.begin());
      return route_tokens(*ops, in).indices.data;
    };
    CHECK(chosen({0, 0, 0, 0, 0, 0}) == std::vector<double>{0, 1});
    CHECK(chosen({9, -9, 1, 1, 0, 0}) == std::vector<double>{2, 3});  // the best of all is in another group
    CHECK(chosen({0, 0, -1, 4, 1, 2}) == std::vector<double>{3, 2});
    CHECK(chosen({-9, -9, -8, -8, -9, -9}) == std::vector<double>{2, 3});  // a negative score beats no score
  }
}

TEST_CASE("route_tokens takes the lower expert among equals, and the bias changes the choice but not the weight") {
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    test::RouteInputs in{.router_logits = test::filled(3, 70, Dtype::bf16, 1),
                         .selection_bias = {},
                         .is_sigmoid = true,
                         .normalizes = false,
                         .rounds_weights = false,
                         .num_choices = 3};
    test::Routed routed = route_tokens(*ops, in);
    for (std::int64_t j = 0; j < 3; ++j) CHECK(routed.indices.at(2, j) == static_cast<double>(j));

    in.selection_bias = test::filled(1, 70, Dtype::f32, 0);
    in.selection_bias.at(0, 69) = 0.5;
    in.selection_bias.at(0, 0) = -0.5;
    routed = route_tokens(*ops, in);
    const double expected[] = {69, 1, 2};
    for (std::int64_t j = 0; j < 3; ++j) {
      CHECK(routed.indices.at(1, j) == expected[j]);
      CHECK(std::abs(routed.weights.at(1, j) - 1 / (1 + std::exp(-1))) < 1e-6);
    }
  }
}

TEST_CASE("route_tokens chooses different experts of a token whose logits are not numbers") {
  for (const auto& ops : test::devices()) {
    for (const bool is_sigmoid : {false, true}) {
      CAPTURE(ops->code_path());
      CAPTURE(is_sigmoid);
      Values logits = test::nans(2, 40, Dtype::f32);
      for (std::int64_t e = 0; e < 40; ++e) logits.at(1, e) = e == 37 ? logits.at(0, 0) : 0.0;
      const test::Routed routed = route_tokens(*ops, {.router_logits = logits,
                                                      .selection_bias = {},
                                                      .is_sigmoid = is_sigmoid,
                                                      .normalizes = true,
                                                      .rounds_weights = false,
                                                      .num_choices = 4});
      for (std::int64_t j = 0; j < 4; ++j) CHECK(routed.indices.at(0, j) == static_cast<double>(j));
      if (is_sigmoid) CHECK(routed.indices.at(1, 0) == 37);
    }
  }
}

TEST_CASE("group_by_expert deals rows by expert, in the order of the tokens") {
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    check_grouping(*ops, random_choices(1, 5, 1, 1), 5);
    check_grouping(*ops, random_choices(37, 5, 5, 2), 5);
    check_grouping(*ops, random_choices(700, 256, 8, 3), 256);
    check_grouping(*ops, random_choices(301, 1000, 3, 4), 1000);
    check_grouping(*ops, test::filled(1030, 1, Dtype::i32, 6), 9);  // all tokens to one expert
    check_grouping(*ops, test::filled(0, 2, Dtype::i32, 0), 4);
  }
}

TEST_CASE("gather_rows copies the rows that are named") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const std::int64_t width : {1, 8, 33}) {
        CAPTURE(ops->code_path());
        const Values x = test::random(5, width, dtype, 1);
        Values rows = test::filled(7, 1, Dtype::i32, 0);
        Values expected = test::filled(7, width, dtype, 0);
        for (std::int64_t r = 0; r < 7; ++r) {
          rows.at(r, 0) = static_cast<double>(r * 3 % 5);
          for (std::int64_t c = 0; c < width; ++c) expected.at(r, c) = x.at(r * 3 % 5, c);
        }
        const test::OnDevice x_there(*ops, x, 2), rows_there(*ops, rows), out(*ops, test::nans(7, width, dtype), 1);
        ops->gather_rows({.out = out.tensor(), .x = x_there.tensor(), .rows = rows_there.tensor()});
        CHECK(out.values() == expected);
      }
    }
  }
}

TEST_CASE("expert_matmul is each expert's matmul, to the bit, whichever experts go together") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{40, 24}, {33, 7}, {130, 96}}) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(in);
        const std::vector<std::int64_t> first_rows = {0, 3, 3, 70, 71};
        test::StoredFile file;
        device::Ops::ExpertWeightsParts parts{.dtype = dtype, .experts = {}};
        std::vector<std::unique_ptr<device::MatMulWeight>> apart;
        for (std::uint64_t expert = 0; expert < 4; ++expert) {
          const Values gate = test::random(out, in, dtype, expert), up = test::random(out, in, dtype, 10 + expert);
          parts.experts.push_back({file.add(gate), file.add(up)});
          apart.push_back(ops->matmul_weight({.dtype = dtype, .weights = parts.experts.back()}));
        }
        const auto weights = ops->expert_weights(parts);
        ops->finish_loads([](std::uint64_t) {});
        CHECK(weights->num_experts() == 4);
        CHECK(weights->in_features() == in);
        CHECK(weights->out_features() == 2 * out);

        const Values x = test::random(71, in, dtype, 99);
        Values expected = test::filled(71, 2 * out, dtype, 0);
        for (std::size_t expert = 0; expert < 4; ++expert) {
          const std::int64_t rows = first_rows[expert + 1] - first_rows[expert];
          if (rows == 0) continue;
          const test::OnDevice some(*ops, test::rows_of(x, first_rows[expert], rows));
          const test::OnDevice result(*ops, test::nans(rows, 2 * out, dtype));
          ops->matmul({.out = result.tensor(), .x = some.tensor(), .weight = *apart[expert]});
          const Values values = result.values();
          std::copy(values.data.begin(), values.data.end(), expected.data.begin() + first_rows[expert] * 2 * out);
        }
        const test::OnDevice x_there(*ops, x, 3), all(*ops, test::nans(71, 2 * out, dtype), 1);
        ops->expert_matmul({.out = all.tensor(),
                            .x = x_there.tensor(),
                            .weight = *weights,
                            .first_expert = 0,
                            .first_rows = first_rows});
        CHECK(all.values() == expected);

        const test::OnDevice last(*ops, test::nans(68, 2 * out, dtype));
        ops->expert_matmul({.out = last.tensor(),
                            .x = x_there.tensor().row_slice(3, 68),
                            .weight = *weights,
                            .first_expert = 2,
                            .first_rows = std::span(first_rows).subspan(2)});
        CHECK(last.values() == test::rows_of(expected, 3, 68));
      }
    }
  }
}

TEST_CASE("FP8 weights multiply as what they expand to, to the bit, partial blocks and all") {
  struct Case {
    std::int64_t in, gate, up, block_rows, block_columns;
  };
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const Case& c :
           {Case{64, 32, 32, 16, 16}, Case{160, 70, 130, 128, 128}, Case{33, 6, 10, 4, 8}, Case{33, 7, 9, 4, 8}}) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(c.in);
        CAPTURE(c.gate);
        test::StoredFile file;
        device::Ops::ExpertWeightsParts fp8{.dtype = dtype, .experts = {}}, plain = fp8;
        for (std::uint64_t expert = 0; expert < 3; ++expert) {
          fp8.experts.emplace_back();
          plain.experts.emplace_back();
          for (const std::int64_t rows : {c.gate, c.up}) {
            fp8.experts.back().push_back(file.add_fp8(rows, c.in, c.block_rows, c.block_columns,
                                                      10 * expert + static_cast<std::uint64_t>(rows)));
            std::vector<std::byte> bytes(static_cast<std::size_t>(rows * c.in) * size_of(dtype));
            fp8.experts.back().back().read_values(dtype, bytes.data());
            plain.experts.back().push_back(file.add(rows, c.in, test::storage_of(dtype), bytes));
          }
        }
        const auto weights = ops->expert_weights(fp8), expanded = ops->expert_weights(plain);
        const auto dense = ops->matmul_weight({.dtype = dtype, .weights = fp8.experts[1]});
        const auto mixed = ops->matmul_weight({.dtype = dtype, .weights = {plain.experts[1][0], fp8.experts[1][1]}});
        const auto dense_expanded = ops->matmul_weight({.dtype = dtype, .weights = plain.experts[1]});
        ops->finish_loads([](std::uint64_t) {});

        const std::vector<std::int64_t> first_rows = {0, 4, 4, 11};
        const test::OnDevice x(*ops, test::random(11, c.in, dtype, 99));
        const auto multiplied = [&](const device::ExpertWeights& weight) {
          const test::OnDevice out(*ops, test::nans(11, c.gate + c.up, dtype));
          ops->expert_matmul(
              {.out = out.tensor(), .x = x.tensor(), .weight = weight, .first_expert = 0, .first_rows = first_rows});
          return out.values();
        };
        CHECK(multiplied(*weights) == multiplied(*expanded));
        const auto multiplied_dense = [&](const device::MatMulWeight& weight) {
          const test::OnDevice out(*ops, test::nans(11, c.gate + c.up, dtype));
          ops->matmul({.out = out.tensor(), .x = x.tensor(), .weight = weight});
          return out.values();
        };
        CHECK(multiplied_dense(*dense) == multiplied_dense(*dense_expanded));
        CHECK(multiplied_dense(*mixed) == multiplied_dense(*dense_expanded));
      }
    }
  }
}

/// The F8_E4M3 number that is nearest, of two the even one.
double rounded_to_e4m3(double value) {
  double nearest = 0;
  for (int bits = 1; bits < 0x7F; ++bits) {
    const double candidate = weights::f32_of_e4m3(static_cast<std::uint8_t>(bits));
    const double here = std::abs(std::abs(value) - candidate), before = std::abs(std::abs(value) - nearest);
    if (here < before || (here == before && bits % 2 == 0)) nearest = candidate;
  }
  return std::copysign(nearest, value);
}

/// x as multiply_fp8 takes it: rounded, times the factor of its block.
std::vector<double> as_fp8(const Values& x) {
  std::vector<double> out(x.data.size());
  for (std::int64_t row = 0; row < x.rows; ++row) {
    for (std::int64_t begin = 0; begin < x.columns; begin += 128) {
      const auto first = static_cast<std::size_t>(row * x.columns + begin);
      const auto last = static_cast<std::size_t>(row * x.columns + std::min(x.columns, begin + 128));
      float largest = 0;
      for (std::size_t i = first; i < last; ++i) largest = std::max(largest, static_cast<float>(std::abs(x.data[i])));
      const float factor = largest / 448;
      for (std::size_t i = first; i < last && factor > 0; ++i) {
        out[i] = rounded_to_e4m3(static_cast<float>(x.data[i]) / factor) * double{factor};
      }
    }
  }
  return out;
}

TEST_CASE("FP8 times FP8 agrees with the f64 formula where a device multiplies it, and rows do not see each other") {
  struct Case {
    std::int64_t in, gate, up;
  };
  constexpr std::int64_t kRows = 71;
  const std::vector<std::int64_t> first_rows = {0, 4, 4, 37, kRows};
  for (const auto& ops : test::devices()) {
    if (!ops->multiply_fp8()) continue;
    for (const Dtype dtype : {Dtype::bf16, Dtype::f16}) {
      for (const Case& c : {Case{256, 128, 128}, Case{1536, 256, 144}, Case{208, 128, 64}}) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(c.in);
        const std::int64_t out = c.gate + c.up;
        test::StoredFile file;
        device::Ops::ExpertWeightsParts parts{.dtype = dtype, .experts = {}};
        std::vector<std::vector<double>> plain;  // of each expert, [out, in]
        for (std::uint64_t expert = 0; expert < 4; ++expert) {
          parts.experts.emplace_back();
          plain.emplace_back();
          for (const std::int64_t rows : {c.gate, c.up}) {
            parts.experts.back().push_back(
                file.add_fp8(rows, c.in, 128, 128, 10 * expert + static_cast<std::uint64_t>(rows)));
            std::vector<double> values(static_cast<std::size_t>(rows * c.in));
            parts.experts.back().back().read_values(Dtype::f64, values.data());
            plain.back().insert(plain.back().end(), values.begin(), values.end());
          }
        }
        const auto experts = ops->expert_weights(parts);
        const auto dense = ops->matmul_weight({.dtype = dtype, .weights = parts.experts[1]});
        ops->finish_loads([](std::uint64_t) {});

        Values x = test::random(kRows, c.in, dtype, 99);
        std::fill_n(x.data.begin(), 130, 0.0);  // a block of zeros, and a bit of the next
        const std::vector<double> quantized = as_fp8(x);
        const test::OnDevice there(*ops, x, 3);
        const auto agrees = [&](const Values& values, std::int64_t row, const std::vector<double>& weight) {
          for (std::int64_t column = 0; column < out; ++column) {
            double sum = 0, magnitude = 0;
            for (std::int64_t k = 0; k < c.in; ++k) {
              const double product = quantized[static_cast<std::size_t>(row * c.in + k)] *
                                     weight[static_cast<std::size_t>(column * c.in + k)];
              sum += product;
              magnitude += std::abs(product);
            }
            const double value = values.data[static_cast<std::size_t>(row * out + column)];
            // A rounding of the result, and tensor cores that keep some 14 bits of a block's sum.
            if (!(std::abs(value - sum) <= std::abs(sum) / 256 + magnitude / 4096)) return false;
          }
          return true;
        };
        const test::OnDevice all(*ops, test::nans(kRows, out, dtype));
        ops->expert_matmul({.out = all.tensor(),
                            .x = there.tensor(),
                            .weight = *experts,
                            .first_expert = 0,
                            .first_rows = first_rows});
        const Values by_experts = all.values();
        for (std::size_t expert = 0; expert < 4; ++expert) {
          for (std::int64_t row = first_rows[expert]; row < first_rows[expert + 1]; ++row) {
            CAPTURE(row);
            CHECK(agrees(by_experts, row, plain[expert]));
          }
        }
        const auto multiplied = [&](std::int64_t first, std::int64_t count) {
          const test::OnDevice result(*ops, test::nans(count, out, dtype), 5);
          ops->matmul({.out = result.tensor(), .x = there.tensor().row_slice(first, count), .weight = *dense});
          return result.values();
        };
        const Values whole = multiplied(0, kRows);
        for (const std::int64_t row : {0, 1, 40, 70}) CHECK(agrees(whole, row, plain[1]));
        for (const std::int64_t count : {1, 16, 33}) {
          CHECK(multiplied(kRows - count, count) == test::rows_of(whole, kRows - count, count));
        }
      }
    }
  }
}

TEST_CASE("run_experts is what its parts make, to the bit, whether or not FP8 is multiplied") {
  struct Case {
    std::int64_t hidden, width, num_rows, room;
  };
  for (const bool multiplies_fp8 : {false, true}) {
    for (const auto& ops : test::devices()) {
      if (multiplies_fp8 && !ops->multiply_fp8()) continue;
      for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32}) {
        if (multiplies_fp8 && dtype == Dtype::f32) continue;
        // Aligned, with room for padded rows and without; partial blocks; rows that are no whole 16 bytes.
        for (const Case& c : {Case{256, 128, 71, 0}, Case{256, 256, 300, 0}, Case{256, 256, 300, 3},
                              Case{208, 128, 71, 0}, Case{256, 144, 300, 3}, Case{208, 20, 71, 0}}) {
          if (multiplies_fp8 && c.width % 128 != 0) continue;  // gate_proj has to end with a block
          CAPTURE(ops->code_path());
          CAPTURE(name_of(dtype));
          CAPTURE(c.hidden);
          CAPTURE(c.num_rows);
          test::StoredFile file;
          device::Ops::ExpertWeightsParts gate_up{.dtype = dtype, .experts = {}}, down = gate_up;
          for (std::uint64_t expert = 0; expert < 5; ++expert) {
            const std::uint64_t seed = 10 * expert;
            gate_up.experts.push_back(
                {file.add_fp8(c.width, c.hidden, 128, 128, seed), file.add_fp8(c.width, c.hidden, 128, 128, seed + 1)});
            down.experts.push_back({file.add_fp8(c.hidden, c.width, 128, 128, seed + 2)});
          }
          const auto gate_up_proj = ops->expert_weights(gate_up), down_proj = ops->expert_weights(down);
          ops->finish_loads([](std::uint64_t) {});
          const test::OnDevice x(*ops, test::random(23, c.hidden, dtype, 7, 1e-3));  // so that f16 does not overflow
          Values tokens = {.rows = c.num_rows, .columns = 1, .dtype = Dtype::i32};
          for (std::int64_t row = 0; row < c.num_rows; ++row) tokens.data.push_back(static_cast<double>(row * 5 % 23));
          const test::OnDevice token_of_row(*ops, tokens);
          const std::vector<std::int64_t> first_rows = {3, 7, 7, 3 + c.num_rows - 17, 3 + c.num_rows};  // from expert 1
          const auto result_of = [&](auto&& run) {
            const test::OnDevice out(*ops, test::nans(c.num_rows, c.hidden, dtype));
            const test::OnDevice inputs(*ops, test::nans(c.num_rows, c.hidden, dtype), c.room);
            const test::OnDevice between(*ops, test::nans(c.num_rows, 2 * c.width, dtype));
            const test::OnDevice activated(*ops, test::nans(c.num_rows, c.width, dtype), c.room);
            run({.out = out.tensor(),
                 .x = x.tensor(),
                 .token_of_row = token_of_row.tensor(),
                 .gate_up_proj = *gate_up_proj,
                 .down_proj = *down_proj,
                 .first_expert = 1,
                 .first_rows = first_rows,
                 .inputs = inputs.tensor(),
                 .gate_up = between.tensor(),
                 .activated = activated.tensor()});
            return out.values();
          };
          using RunExperts = device::Ops::RunExperts;
          const Values whole = result_of([&](const RunExperts& args) { ops->run_experts(args); });
          CHECK(whole == result_of([&](const RunExperts& args) { ops->Ops::run_experts(args); }));
          CHECK(std::ranges::none_of(whole.data, [](double value) { return std::isnan(value); }));
        }
      }
    }
  }
}

TEST_CASE("expand gives the numbers as they are") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
      for (const std::int64_t width : {1, 33, 300}) {
        const Values x = test::random(5, width, dtype, 1);
        const test::OnDevice there(*ops, x, 1), out(*ops, test::nans(5, width, Dtype::f32), 3);
        ops->expand({.out = out.tensor(), .x = there.tensor()});
        CHECK(out.values().data == x.data);
      }
    }
  }
}

TEST_CASE("combine_experts agrees with the f64 formula on every device") {
  for (const auto& ops : test::devices()) {
    for (const Dtype dtype : kDtypes) {
      for (const std::int64_t width : {1, 8, 33, 576}) {
        for (const bool rounds_products : {false, true}) {
          CAPTURE(ops->code_path());
          CAPTURE(name_of(dtype));
          CAPTURE(width);
          const Values rows = test::group_by_expert_plainly(random_choices(11, 9, 4, 1), 9).row_of_choice;
          const Values outputs = test::random(44, width, dtype, 2);
          Values weights = test::random(11, 4, rounds_products ? dtype : weights_dtype(dtype), 3);
          weights.dtype = weights_dtype(dtype);
          const test::OnDevice outputs_there(*ops, outputs, 2), rows_there(*ops, rows, 1), weights_there(*ops, weights);
          const test::OnDevice out(*ops, test::nans(11, width, dtype), 1);
          ops->combine_experts({.out = out.tensor(),
                                .expert_outputs = outputs_there.tensor(),
                                .row_of_choice = rows_there.tensor(),
                                .topk_weights = weights_there.tensor(),
                                .rounds_products = rounds_products});
          const Values exact = test::combine_experts_in_f64(outputs, rows, weights, rounds_products);
          CHECK(test::rel_l2(out.values(), exact) <= test::tolerance(dtype));
        }
      }
    }
  }
}

TEST_CASE("integers have statistics, and rows of them are selected") {
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    const Values x = random_choices(9, 100, 40, 5);
    const test::OnDevice there(*ops, x, 1), some(*ops, test::nans(2, 40, Dtype::i32));
    const std::vector<std::int64_t> cu_rows = {0, 4, 9};
    std::vector<Statistics> out(2);
    ops->append_statistics({.out = out, .x = there.tensor(), .cu_rows = cu_rows});
    const std::vector<std::int32_t> ids = {8, 3};
    ops->embedding({.out = some.tensor(), .weight = there.tensor(), .input_ids = ids});
    ops->synchronize();
    Statistics expected;
    for (std::int64_t row = 4; row < 9; ++row) expected.append(test::row_statistics_in_f64(x, row), row - 4);
    CHECK(out[1].sum == expected.sum);
    CHECK(out[1].max == expected.max);
    CHECK(out[1].abs_max_row == expected.abs_max_row);
    CHECK(some.values().at(0, 5) == x.at(8, 5));
    CHECK(some.values().at(1, 39) == x.at(3, 39));
  }
}

TEST_CASE("the operations of experts name both shapes when they disagree") {
  for (const auto& ops : test::devices()) {
    const test::OnDevice logits(*ops, test::random(3, 4, Dtype::f32, 1));
    const test::OnDevice indices(*ops, test::filled(3, 5, Dtype::i32, 0)),
        weights(*ops, test::random(3, 5, Dtype::f32, 1));
    CHECK_THROWS_WITH_AS(ops->route_tokens({.topk_indices = indices.tensor(),
                                            .topk_weights = weights.tensor(),
                                            .router_logits = logits.tensor(),
                                            .selection_bias = {},
                                            .scores = device::Ops::Scores::softmax,
                                            .normalizes = true,
                                            .rounds_weights = false}),
                         doctest::Contains("topk_indices is [3, 5] int32 where router_logits is [3, 4] float32"),
                         Error);
    CHECK_THROWS_WITH_AS(
        ops->gather_rows({.out = logits.tensor(), .x = weights.tensor(), .rows = indices.tensor().column_slice(0, 1)}),
        doctest::Contains("out is [3, 4] float32 where x is [3, 5] float32"), Error);
  }
}

}  // namespace layerprobe
