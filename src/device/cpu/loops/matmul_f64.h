#pragma once

// The f64 product, the truth that the others are measured against: a tile of rows against one panel of the weight.

#include "device/cpu/loops.h"
#include "device/cpu/loops/elementwise.h"
#include "device/cpu/loops/tile_product.h"

namespace layerprobe::device::cpu {
namespace {

void pack_f64_weight(double* packed, const Tensor& weight, std::int64_t first_column) {
  for (std::int64_t row = 0; row < weight.rows; ++row) {
    const std::int64_t column = first_column + row;
    const double* from = row_of<const double>(weight, row);
    double* to = packed + column / kPanel<double> * kPanel<double> * weight.columns + column % kPanel<double>;
    for (std::int64_t k = 0; k < weight.columns; ++k) to[k * kPanel<double>] = from[k];
  }
}

void matmul_f64(const Ops::MatMul& args, const double* packed, const double* bias, std::int64_t panel, Rows rows) {
  const std::int64_t depth = args.x.columns;
  const std::int64_t first = panel * kPanel<double>;
  const std::int64_t columns = args.out.columns - first < kPanel<double> ? args.out.columns - first : kPanel<double>;
  const double* panel_weight = packed + first * depth;
  for (std::int64_t row = rows.first; row < rows.last; row += kTileRows) {
    const std::int64_t count = rows.last - row < kTileRows ? rows.last - row : kTileRows;
    double sums[kTileRows * kPanel<double>];
    if (count == kTileRows) {
      multiply_panel(row_of<const double>(args.x, row), args.x.row_stride, panel_weight, depth, sums, kPanel<double>,
                     false);
    } else {
      for (std::int64_t r = 0; r < count; ++r) {  // stride 0: the tile's rows are all this one
        double same[kTileRows * kPanel<double>];
        multiply_panel(row_of<const double>(args.x, row + r), 0, panel_weight, depth, same, kPanel<double>, false);
        __builtin_memcpy(sums + r * kPanel<double>, same, kPanel<double> * sizeof(double));
      }
    }
    for (std::int64_t r = 0; r < count; ++r) {
      double* out = row_of<double>(args.out, row + r) + first;
      for (std::int64_t c = 0; c < columns; ++c) {
        out[c] = sums[r * kPanel<double> + c] + (bias != nullptr ? bias[first + c] : 0.0);
      }
    }
  }
}

}  // namespace
}  // namespace layerprobe::device::cpu
