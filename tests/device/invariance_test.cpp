// A row of a result has the same bits whichever rows are in the call with it. Of products: matmul_test.cpp; of prompts
// in attention: attention_test.cpp.
#include <doctest/doctest.h>

#include <functional>

#include "tests/support/formulas.h"

namespace layerprobe {
namespace {

using device::Ops;
using device::Tensor;
using test::OnDevice;
using test::Values;

constexpr std::int64_t kRows = 150;
constexpr std::pair<std::int64_t, std::int64_t> kParts[] = {{0, 1}, {149, 1}, {7, 3}, {31, 33}, {14, 130}};

/// `work(out, first, count)` makes rows [first, first + count) of what it makes of all rows.
void check_rows(Ops& ops, std::int64_t columns, Dtype dtype,
                const std::function<void(const Tensor& out, std::int64_t first, std::int64_t count)>& work) {
  const auto rows_from = [&](std::int64_t first, std::int64_t count) {
    const OnDevice out(ops, test::nans(count, columns, dtype));
    work(out.tensor(), first, count);
    return out.values();
  };
  const Values all = rows_from(0, kRows);
  for (const auto& [first, count] : kParts) {
    CAPTURE(first);
    CAPTURE(count);
    CHECK(rows_from(first, count) == test::rows_of(all, first, count));
  }
}

}  // namespace

TEST_CASE("a row has the same bits whatever the batch") {
  const auto devices = test::devices();
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (const std::int64_t columns : {6, 33, 192}) {
      const std::int64_t head_dim = columns / 3;
      const Values x_values = test::random(kRows, columns, dtype, 1), y_values = test::random(kRows, columns, dtype, 2);
      const Values weight_values = test::random(1, columns, dtype, 3);
      const Values table = test::random(kRows, head_dim / 2, dtype, 4);
      for (const auto& ops : devices) {
        CAPTURE(ops->code_path());
        CAPTURE(name_of(dtype));
        CAPTURE(columns);
        const OnDevice x(*ops, x_values), y(*ops, y_values), weight(*ops, weight_values), table_there(*ops, table);
        const OnDevice sum(*ops, test::nans(kRows, columns, dtype));
        const auto check = [&](const auto& work) { check_rows(*ops, columns, dtype, work); };
        check([&](const Tensor& out, std::int64_t first, std::int64_t count) {
          ops->rms_norm({.out = out,
                         .hidden_states = x.tensor().row_slice(first, count),
                         .weight = weight.tensor(),
                         .rms_norm_eps = 1e-6});
        });
        check([&](const Tensor& out, std::int64_t first, std::int64_t count) {
          ops->add_rms_norm({.sum = sum.tensor().row_slice(first, count),
                             .normed = out,
                             .a = x.tensor().row_slice(first, count),
                             .b = y.tensor().row_slice(first, count),
                             .weight = weight.tensor(),
                             .rms_norm_eps = 1e-6});
        });
        check([&](const Tensor& out, std::int64_t first, std::int64_t count) {
          ops->silu_mul(
              {.out = out, .gate = x.tensor().row_slice(first, count), .up = y.tensor().row_slice(first, count)});
        });
        check([&](const Tensor& out, std::int64_t first, std::int64_t count) {
          ops->add({.out = out, .a = x.tensor().row_slice(first, count), .b = y.tensor().row_slice(first, count)});
        });
        if (head_dim < 2) continue;
        check([&](const Tensor& out, std::int64_t first, std::int64_t count) {
          const Tensor angles = table_there.tensor().row_slice(first, count);
          ops->copy_from_host(out, test::bytes_of(test::rows_of(x_values, first, count)).data());
          ops->rope({.x = out, .cos = angles, .sin = angles, .head_dim = head_dim});
        });
      }
    }
  }
}

}  // namespace layerprobe
