// Copies to the host that go on beside the operations queued after them.
#include <doctest/doctest.h>

#include <optional>

#include "tests/support/values.h"

namespace layerprobe {
namespace {

using device::Ops;
using device::Tensor;
using test::OnDevice;
using test::Values;

// Large enough for a copy to last while the next operations are queued: 8 MB of f32.
constexpr std::int64_t kRows = 1024, kColumns = 2048;

Values arrived(const device::Buffer& host, std::int64_t rows, std::int64_t columns) {
  return test::values_of(static_cast<const std::byte*>(host.data()), Dtype::f32, rows, columns);
}

}  // namespace

TEST_CASE("a copy to the host has the values of its moment, whatever is written over them later") {
  const Values ones = test::filled(kRows, kColumns, Dtype::f32, 1),
               x_values = test::random(kRows, kColumns, Dtype::f32, 1);
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    const OnDevice x(*ops, x_values), one(*ops, ones);
    const device::Buffer host = ops->allocate_on_host(4 * kRows * kColumns);
    CHECK(reinterpret_cast<std::uintptr_t>(host.data()) % 4096 == 0);
    ops->start_copy_to_host(host.data(), x.tensor());
    const auto mark = ops->mark();
    for (int i = 0; i < 3; ++i) ops->add({.out = x.tensor(), .a = x.tensor(), .b = one.tensor()});
    mark->wait();
    CHECK(arrived(host, kRows, kColumns) == x_values);
    CHECK(x.values() != x_values);
  }
}

TEST_CASE("a copy of some columns has the values of its moment, and so has one of memory that is given back") {
  const Values x_values = test::random(kRows, kColumns, Dtype::f32, 2);
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    const device::Buffer host = ops->allocate_on_host(4 * kRows * kColumns);
    const OnDevice wide(*ops, x_values);
    ops->start_copy_to_host(host.data(), wide.tensor().column_slice(3, 100));
    const auto narrow_mark = ops->mark();
    ops->add({.out = wide.tensor(), .a = wide.tensor(), .b = wide.tensor()});
    narrow_mark->wait();
    const Values some = arrived(host, kRows, 100);
    for (std::int64_t row = 0; row < kRows; row += 100) CHECK(some.at(row, 99) == x_values.at(row, 102));

    std::optional<OnDevice> gone(std::in_place, *ops, x_values);
    ops->start_copy_to_host(host.data(), gone->tensor());
    const auto mark = ops->mark();
    gone.reset();
    const OnDevice in_its_place(*ops, test::nans(kRows, kColumns, Dtype::f32));
    mark->wait();
    CHECK(arrived(host, kRows, kColumns) == x_values);
  }
}

TEST_CASE("a mark brings the statistics that were queued before it, and those alone") {
  const Values x_values = test::random(64, 96, Dtype::bf16, 3);
  const std::vector<std::int64_t> cu_rows = {0, 10, 64};
  for (const auto& ops : test::devices()) {
    CAPTURE(ops->code_path());
    const OnDevice x(*ops, x_values);
    std::vector<Statistics> expected(2), first(2), second(2);
    ops->append_statistics({.out = expected, .x = x.tensor(), .cu_rows = cu_rows});
    ops->synchronize();
    ops->append_statistics({.out = first, .x = x.tensor(), .cu_rows = cu_rows});
    const auto mark = ops->mark();
    ops->append_statistics({.out = second, .x = x.tensor(), .cu_rows = cu_rows});
    mark->wait();
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(first[i].count == expected[i].count);
      CHECK(first[i].sum == expected[i].sum);
    }
    ops->synchronize();
    CHECK(second[1].sum == expected[1].sum);
  }
}

}  // namespace layerprobe
