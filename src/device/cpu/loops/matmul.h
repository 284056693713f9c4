#pragma once

// Matrix products in f32 (of f16 and bf16 too: expanded) and f64. A row's sums take their terms in an order that
// depends on in_features alone: in blocks of kDepth, one after the other, each block's sum from 0. So a row has the
// same bits whatever rows stand beside it, and the same ones on every instruction set that fuses products and sums.
//
// The depth of a block is for accuracy: after SmolLM2's last layer our f32 is 1.9, 0.8 and 0.8 times as far from f64 as
// transformers' own, at depths of 512, 256 and 128.
//
// Bound by the multipliers: a block of a panel (32 KiB in f32) stays in the nearest caches for all rows of a call.
// Measured: 100 GFLOP/s in f32 where oneDNN 2.6.3 makes 102, on one Zen 4 core with AVX-512, SmolLM2's shapes, 1024
// tokens, by layerprobe_bench_ops.

#include "device/cpu/loops.h"
#include "device/cpu/loops/elementwise.h"
#include "device/cpu/loops/tile_product.h"

namespace layerprobe::device::cpu {
namespace {

constexpr std::int64_t kDepth = 256;
constexpr std::int64_t kMatmulRows = 8 * kTileRows;

void pack_weight(void* packed, const Tensor& weight, std::int64_t first_column) {
  dispatch(weight.dtype, [&]<typename Element>() {
    using A = Scalar<Element>;
    for (std::int64_t row = 0; row < weight.rows; ++row) {
      const std::int64_t column = first_column + row;
      const Element* from = row_of<const Element>(weight, row);
      A* to = static_cast<A*>(packed) + column / kPanel<A> * kPanel<A> * weight.columns + column % kPanel<A>;
      for_each_vector<Element>(weight.columns, [&](std::int64_t k, auto access) {
        const Vector<Element> part = access.load(from + k);
        for (std::int64_t lane = 0; lane < kLanes<Element> && k + lane < weight.columns; ++lane) {
          to[(k + lane) * kPanel<A>] = part[lane];
        }
      });
    }
  });
}

std::int64_t matmul_scratch_bytes(const Tensor& x) {
  const std::int64_t rows_and_sums = kMatmulRows * (x.columns + kPanel<float>);  // a panel has more f32 than f64
  return rows_and_sums * static_cast<std::int64_t>(x.dtype == Dtype::f64 ? sizeof(double) : sizeof(float));
}

/// A matrix of the arithmetic type.
template <typename A>
struct Terms {
  const A* data;
  std::int64_t row_stride;
};

/// The rows of x, whole tiles of them: where they are if they are of the arithmetic type, else expanded to `scratch`.
template <typename Element, typename A = Scalar<Element>>
Terms<A> terms_of(const Tensor& x, A* scratch) {
  if constexpr (sizeof(Element) == sizeof(A)) {
    if (x.rows % kTileRows == 0) return {row_of<const A>(x, 0), x.row_stride};
  }
  std::int64_t row = 0;
  for (; row < x.rows; ++row) {
    const Element* from = row_of<const Element>(x, row);
    for_each_vector<Element>(x.columns, [&](std::int64_t k, auto access) {
      access.store(scratch + row * x.columns + k, access.load(from + k));
    });
  }
  for (; row % kTileRows != 0; ++row) {
    for (std::int64_t k = 0; k < x.columns; ++k) scratch[row * x.columns + k] = 0;
  }
  return {scratch, x.columns};
}

template <typename Element>
void multiply_panels(const Tensor& out, const Tensor& x, const Scalar<Element>* packed, const Scalar<Element>* bias,
                     Rows panels, Scalar<Element>* scratch) {
  using A = Scalar<Element>;
  const std::int64_t depth = x.columns;
  A* sums = scratch;
  const Terms<A> terms = terms_of<Element>(x, sums + kMatmulRows * kPanel<A>);
  for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
    const std::int64_t first_column = panel * kPanel<A>;
    for (std::int64_t k = 0; k < depth; k += kDepth) {
      const std::int64_t count = depth - k < kDepth ? depth - k : kDepth;
      for (std::int64_t row = 0; row < x.rows; row += kTileRows) {
        multiply_panel(terms.data + row * terms.row_stride + k, terms.row_stride,
                       packed + first_column * depth + k * kPanel<A>, count, sums + row * kPanel<A>, kPanel<A>, k > 0);
      }
    }
    const std::int64_t columns = out.columns - first_column < kPanel<A> ? out.columns - first_column : kPanel<A>;
    for (std::int64_t row = 0; row < x.rows; ++row) {
      Element* to = row_of<Element>(out, row) + first_column;
      for_each_vector<Element>(columns, [&](std::int64_t column, auto access) {
        Vector<Element> value = access.load(sums + row * kPanel<A> + column);
        if (bias != nullptr) value += access.load(bias + first_column + column);
        access.store(to + column, value);
      });
    }
  }
}

void matmul(const Tensor& out, const Tensor& x, const void* packed, const void* bias, Rows panels, void* scratch) {
  dispatch(x.dtype, [&]<typename Element>() {
    using A = Scalar<Element>;
    multiply_panels<Element>(out, x, static_cast<const A*>(packed), static_cast<const A*>(bias), panels,
                             static_cast<A*>(scratch));
  });
}

}  // namespace
}  // namespace layerprobe::device::cpu
