#pragma once

// Two passes over each group: the second reads from the nearest cache.

#include "device/cpu/loops.h"
#include "device/cpu/loops/elementwise.h"

namespace layerprobe::device::cpu {
namespace {

void rms_norm(const Ops::RmsNorm& args, Rows rows) {
  dispatch(args.out.dtype, [&]<typename Element>() {
    using V = Vector<Element>;
    const std::int64_t size = args.weight.columns;
    const Element* weight = static_cast<const Element*>(args.weight.data);
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      for (std::int64_t group = 0; group < args.out.columns; group += size) {
        const Element* x = row_of<const Element>(args.hidden_states, row) + group;
        Element* out = row_of<Element>(args.out, row) + group;

        V sums[4] = {};  // four sums, because one would wait for itself
        std::int64_t column = 0;
        for (; column + 4 * kLanes<Element> <= size; column += 4 * kLanes<Element>) {
          for (int part = 0; part < 4; ++part) {
            const V value = load(x + column + part * kLanes<Element>);
            sums[part] = multiply_add(value, value, sums[part]);
          }
        }
        for_each_vector<Element>(size - column, [&](std::int64_t rest, auto access) {
          const V value = access.load(x + column + rest);
          sums[0] = multiply_add(value, value, sums[0]);
        });
        const Scalar<Element> square_sum = sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
        const Scalar<Element> mean_square =
            square_sum / static_cast<Scalar<Element>>(size) + static_cast<Scalar<Element>>(args.rms_norm_eps);
        const Scalar<Element> scale = 1 / square_root(mean_square);

        for_each_vector<Element>(size, [&](std::int64_t h, auto access) {
          access.store(out + h, access.load(weight + h) * rounded<Element>(access.load(x + h) * scale));
        });
      }
    }
  });
}

}  // namespace
}  // namespace layerprobe::device::cpu
