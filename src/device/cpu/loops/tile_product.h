#pragma once

// The inner loop of attention and of our own matrix products: kTileRows rows of a times a panel of b, two vectors wide.
// Every sum is in a register and takes its terms in order, so a row's bits depend on nothing but the row.
//
// Bound by the multipliers: for each step two loads and kTileRows broadcasts against 2 kTileRows multiply-adds.

#include "device/cpu/loops/vector.h"

namespace layerprobe::device::cpu {
namespace {

template <typename A>
constexpr std::int64_t kPanel = 2 * kLanes<A>;  // columns

/// c[r, 0 .. kPanel) = (add ? c : 0) + (sum over k < depth of a[r, k] * b[k, :]), r < kTileRows.
template <typename A>
inline void multiply_panel(const A* a, std::int64_t a_stride, const A* b, std::int64_t depth, A* c,
                           std::int64_t c_stride, bool add) {
  using V = Vector<A>;
  V sums[kTileRows][2] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    const V left = load(b + k * kPanel<A>);
    const V right = load(b + k * kPanel<A> + kLanes<A>);
#pragma GCC unroll 16
    for (int row = 0; row < kTileRows; ++row) {
      const V factor = V{} + a[row * a_stride + k];
      sums[row][0] = multiply_add(factor, left, sums[row][0]);
      sums[row][1] = multiply_add(factor, right, sums[row][1]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kTileRows; ++row) {
    A* left = c + row * c_stride;
    A* right = left + kLanes<A>;
    store(left, add ? load(left) + sums[row][0] : sums[row][0]);
    store(right, add ? load(right) + sums[row][1] : sums[row][1]);
  }
}

}  // namespace
}  // namespace layerprobe::device::cpu
