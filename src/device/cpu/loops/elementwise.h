#pragma once

// Operations whose columns do not meet. Bound by memory, or by the caches where a batch fits them.

#include "device/cpu/loops.h"
#include "device/cpu/loops/vector.h"

namespace layerprobe::device::cpu {
namespace {

template <typename Element>
inline Element* row_of(const Tensor& tensor, std::int64_t row) {
  return static_cast<Element*>(tensor.data) + row * tensor.row_stride;
}

/// Starts to bring the rows of x into the nearest cache, for loops that wait for each row otherwise.
template <typename Element>
inline void prefetch_rows(const Tensor& x) {
  for (std::int64_t row = 0; row < x.rows; ++row) {
    const char* line = reinterpret_cast<const char*>(row_of<const Element>(x, row));
    const char* end = line + x.columns * static_cast<std::int64_t>(sizeof(Element));
    for (; line < end; line += 64) __builtin_prefetch(line);
  }
}

/// Some rows and columns of x.
template <typename Element>
inline Tensor part_of(Tensor x, Rows rows, std::int64_t first_column, std::int64_t columns) {
  x.data = row_of<Element>(x, rows.first) + first_column;
  x.rows = rows.last - rows.first;
  x.columns = columns;
  return x;
}

void round_rows(const Tensor& out, F32Matrix in, const float* bias) {
  dispatch(out.dtype, [&]<typename Element>() {
    if constexpr (sizeof(Element) <= 4) {
      for (std::int64_t row = 0; row < out.rows; ++row) {
        Element* to = row_of<Element>(out, row);
        const float* from = in.data + row * in.row_stride;
        for_each_vector<Element>(out.columns, [&](std::int64_t column, auto access) {
          F32 value = access.load(from + column);
          if (bias != nullptr) value += access.load(bias + column);
          access.store(to + column, value);
        });
      }
    }
  });
}

void expand_rows(F32Matrix out, const Tensor& x) {
  dispatch(x.dtype, [&]<typename Element>() {
    if constexpr (sizeof(Element) <= 4) {
      for (std::int64_t row = 0; row < x.rows; ++row) {
        const Element* from = row_of<Element>(x, row);
        float* to = out.data + row * out.row_stride;
        for_each_vector<Element>(x.columns, [&](std::int64_t column, auto access) {
          access.store(to + column, access.load(from + column));
        });
      }
    }
  });
}

void add(const Ops::Add& args, Rows rows) {
  dispatch(args.out.dtype, [&]<typename Element>() {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      Element* out = row_of<Element>(args.out, row);
      const Element* a = row_of<const Element>(args.a, row);
      const Element* b = row_of<const Element>(args.b, row);
      for_each_vector<Element>(args.out.columns, [&](std::int64_t column, auto access) {
        access.store(out + column, access.load(a + column) + access.load(b + column));
      });
    }
  });
}

void silu_mul(const Ops::SiluMul& args, Rows rows) {
  dispatch(args.out.dtype, [&]<typename Element>() {
    const bool has_up = args.up.data != nullptr;
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      Element* out = row_of<Element>(args.out, row);
      const Element* gate = row_of<const Element>(args.gate, row);
      const Element* up = has_up ? row_of<const Element>(args.up, row) : nullptr;
      for_each_vector<Element>(args.out.columns, [&](std::int64_t column, auto access) {
        const Vector<Element> x = access.load(gate + column);
        const Vector<Element> silu = x / (exponential(-x) + 1);
        access.store(out + column, has_up ? rounded<Element>(silu) * access.load(up + column) : silu);
      });
    }
  });
}

/// Ops::Rope of one head whose pairs are neighbours.
template <typename Element>
inline void rotate_neighbours(Element* x, const Element* cos, const Element* sin, std::int64_t half) {
  for_each_vector<Element>(half, [&](std::int64_t j, auto access) {
    Element low[kLanes<Element>] = {}, high[kLanes<Element>] = {};
    const std::int64_t count = half - j < kLanes<Element> ? half - j : kLanes<Element>;
    for (std::int64_t lane = 0; lane < count; ++lane) {
      low[lane] = x[2 * (j + lane)];
      high[lane] = x[2 * (j + lane) + 1];
    }
    const Vector<Element> lo = load(low), hi = load(high), c = access.load(cos + j), s = access.load(sin + j);
    store(low, rounded<Element>(lo * c) - rounded<Element>(hi * s));
    store(high, rounded<Element>(hi * c) + rounded<Element>(lo * s));
    for (std::int64_t lane = 0; lane < count; ++lane) {
      x[2 * (j + lane)] = low[lane];
      x[2 * (j + lane) + 1] = high[lane];
    }
  });
}

void rope(const Ops::Rope& args, Rows rows) {
  dispatch(args.x.dtype, [&]<typename Element>() {
    const std::int64_t half = args.cos.columns;
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      const Element* cos = row_of<const Element>(args.cos, row);
      const Element* sin = row_of<const Element>(args.sin, row);
      for (std::int64_t head = 0; head < args.x.columns; head += args.head_dim) {
        Element* low = row_of<Element>(args.x, row) + head + args.first;
        if (args.interleaved) {
          rotate_neighbours(low, cos, sin, half);
          continue;
        }
        Element* high = low + half;
        for_each_vector<Element>(half, [&](std::int64_t j, auto access) {
          const Vector<Element> lo = access.load(low + j), hi = access.load(high + j);
          const Vector<Element> c = access.load(cos + j), s = access.load(sin + j);
          access.store(low + j, rounded<Element>(lo * c) - rounded<Element>(hi * s));
          access.store(high + j, rounded<Element>(hi * c) + rounded<Element>(lo * s));
        });
      }
    }
  });
}

void mean_rows(const Tensor& out, const Tensor& x) {
  dispatch(x.dtype, [&]<typename Element>() {
    constexpr std::int64_t kBlock = kLanes<Element>;
    for_each_vector<Element>(x.columns, [&](std::int64_t column, auto access) {
      double sums[kBlock] = {};
      for (std::int64_t row = 0; row < x.rows; ++row) {
        const Vector<Element> value = access.load(row_of<const Element>(x, row) + column);
        for (std::int64_t lane = 0; lane < kBlock; ++lane) sums[lane] += value[lane];
      }
      float* means = row_of<float>(out, 0) + column;
      for (std::int64_t lane = 0; lane < kBlock && column + lane < x.columns; ++lane) {
        means[lane] = static_cast<float>(sums[lane] / static_cast<double>(x.rows));
      }
    });
  });
}

}  // namespace
}  // namespace layerprobe::device::cpu
