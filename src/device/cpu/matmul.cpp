#include "device/cpu/matmul.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "device/arguments.h"
#include "device/cpu/onednn.h"

namespace layerprobe::device::cpu {
namespace {

constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));
constexpr auto kDoubleBytes = static_cast<std::int64_t>(sizeof(double));

class CpuWeight : public MatMulWeight {
 public:
  std::int64_t in_features() const override { return in; }
  std::int64_t out_features() const override { return out; }
  std::size_t bytes() const override {
    return (product ? product->bytes() : packed_f64.bytes()) + bias.size() * sizeof(float) +
           bias_f64.size() * sizeof(double);
  }
  /// What a row takes in the dtype that is multiplied.
  std::int64_t row_bytes() const { return in * static_cast<std::int64_t>(size_of(multiplied)); }

  std::int64_t in = 0, out = 0;
  Dtype dtype = Dtype::f32;       // of x, out and the checkpoint's weight
  Dtype multiplied = Dtype::f32;  // dtype, or f32 where x and weight are expanded

  std::optional<TiledProduct> product;  // but for f64
  std::vector<float> bias;              // [out], or empty

  Buffer packed_f64;  // Loops::pack_f64_weight's
  std::vector<double> bias_f64;
};

void copy_rows(std::byte* to, const Tensor& from) {
  const std::size_t row_bytes = static_cast<std::size_t>(from.columns) * size_of(from.dtype);
  for (std::int64_t row = 0; row < from.rows; ++row) {
    std::memcpy(to + static_cast<std::size_t>(row) * row_bytes, from.row_slice(row, 1).data, row_bytes);
  }
}

/// The rows `wanted` of the stacked parts, packed, in the dtype that is multiplied: where they are if they lie so, else
/// copied to `staging`.
const void* stacked_rows(const CpuWeight& weight, std::span<const Tensor> parts, Rows wanted, std::byte* staging,
                         const Loops& loops) {
  std::int64_t part_first = 0;
  for (const Tensor& part : parts) {
    const std::int64_t from = std::max(wanted.first, part_first);
    const std::int64_t to = std::min(wanted.last, part_first + part.rows);
    if (from < to) {
      const Tensor rows = part.row_slice(from - part_first, to - from);
      const bool as_it_is = weight.multiplied == weight.dtype;
      if (as_it_is && rows.is_contiguous() && rows.rows == wanted.last - wanted.first) return rows.data;
      std::byte* place = staging + (from - wanted.first) * weight.row_bytes();
      if (as_it_is) {
        copy_rows(place, rows);
      } else {
        loops.expand_rows({.data = reinterpret_cast<float*>(place), .row_stride = weight.in}, rows);
      }
    }
    part_first += part.rows;
  }
  return staging;
}

void pack_products(CpuWeight& weight, const Ops::MatMulWeightParts& parts, const Loops& loops, Workers& workers) {
  weight.product.emplace(weight.in, weight.out, weight.multiplied);
  TiledProduct& product = *weight.product;
  workers.for_each(product.num_chunks(), [&](std::int64_t chunk, int thread) {
    const std::int64_t first = product.first_column(chunk);
    const std::int64_t columns = product.num_columns(chunk);
    auto* staging = static_cast<std::byte*>(workers.scratch(thread, columns * weight.row_bytes()));
    product.pack(chunk, stacked_rows(weight, parts.weights, {first, first + columns}, staging, loops));
  });
  if (parts.biases.empty()) return;
  weight.bias.assign(static_cast<std::size_t>(weight.out), 0.0f);
  float* place = weight.bias.data();
  for (std::size_t i = 0; i < parts.weights.size(); ++i) {
    if (parts.biases[i].data != nullptr) loops.expand_rows({.data = place, .row_stride = 0}, parts.biases[i]);
    place += parts.weights[i].rows;
  }
}

void pack_f64(CpuWeight& weight, const Ops::MatMulWeightParts& parts, const Loops& loops) {
  const std::int64_t panel = loops.panel_bytes / kDoubleBytes;
  const std::int64_t elements = round_up(weight.out, panel) * weight.in;
  weight.packed_f64 = allocate_bytes(static_cast<std::size_t>(elements) * sizeof(double));
  auto* packed = static_cast<double*>(weight.packed_f64.data());
  std::fill_n(packed + elements - panel * weight.in, panel * weight.in, 0.0);  // the last panel may not be full
  if (!parts.biases.empty()) weight.bias_f64.assign(static_cast<std::size_t>(weight.out), 0.0);
  std::int64_t first = 0;
  for (std::size_t i = 0; i < parts.weights.size(); ++i) {
    loops.pack_f64_weight(packed, parts.weights[i], first);
    if (!parts.biases.empty() && parts.biases[i].data != nullptr) {
      copy_rows(reinterpret_cast<std::byte*>(weight.bias_f64.data() + first), parts.biases[i]);
    }
    first += parts.weights[i].rows;
  }
}

/// One tile of rows, at most TiledProduct::kRows, with one chunk of the weight.
void multiply_tile(const Tensor& out, const Tensor& x, const CpuWeight& weight, std::int64_t chunk, const Loops& loops,
                   Workers& workers, int thread) {
  constexpr std::int64_t kRows = TiledProduct::kRows;
  const TiledProduct& product = *weight.product;
  const std::int64_t first_column = product.first_column(chunk);
  const std::int64_t columns = product.num_columns(chunk);
  const std::int64_t tile_bytes = round_up(kRows * weight.row_bytes(), kAlignment);
  const std::int64_t sums_bytes = round_up(kRows * columns * kFloatBytes, kAlignment);
  auto* scratch = static_cast<std::byte*>(
      workers.scratch(thread, tile_bytes + sums_bytes + static_cast<std::int64_t>(product.scratch_bytes())));
  auto* sums = reinterpret_cast<float*>(scratch + tile_bytes);

  const void* tile = scratch;
  if (weight.multiplied != weight.dtype) {
    loops.expand_rows({.data = reinterpret_cast<float*>(scratch), .row_stride = weight.in}, x);
  } else if (x.rows == kRows && x.is_contiguous()) {
    tile = x.data;
  } else {
    copy_rows(scratch, x);
  }
  if (x.rows < kRows) {
    std::memset(scratch + x.rows * weight.row_bytes(), 0,
                static_cast<std::size_t>((kRows - x.rows) * weight.row_bytes()));
  }
  product.multiply(chunk, tile, sums, scratch + tile_bytes + sums_bytes);
  loops.round_rows(out.column_slice(first_column, columns), {.data = sums, .row_stride = columns},
                   weight.bias.empty() ? nullptr : weight.bias.data() + first_column);
}

}  // namespace

std::unique_ptr<MatMulWeight> pack_weight(const Ops::MatMulWeightParts& parts, const Loops& loops, bool native_bf16,
                                          Workers& workers) {
  auto weight = std::make_unique<CpuWeight>();
  weight->in = parts.weights[0].columns;
  weight->dtype = parts.weights[0].dtype;
  for (const Tensor& part : parts.weights) weight->out += part.rows;
  expect(weight->out > 0, "a weight has rows");
  if (weight->dtype == Dtype::f64) {
    weight->multiplied = Dtype::f64;
    pack_f64(*weight, parts, loops);
  } else {
    weight->multiplied = weight->dtype == Dtype::bf16 && native_bf16 ? Dtype::bf16 : Dtype::f32;
    pack_products(*weight, parts, loops, workers);
  }
  return weight;
}

void matmul(const Ops::MatMul& args, const Loops& loops, Workers& workers) {
  const auto* weight = dynamic_cast<const CpuWeight*>(&args.weight);
  expect(weight != nullptr, "a weight is multiplied on the device that made it");
  check(args, weight->dtype);
  constexpr std::int64_t kRows = TiledProduct::kRows;
  const std::int64_t tiles = (args.x.rows + kRows - 1) / kRows;
  const auto rows_of = [&](std::int64_t tile) { return Rows{tile * kRows, std::min(args.x.rows, (tile + 1) * kRows)}; };
  // Chunks outside, tiles inside: a chunk of the weight stays in each core's cache while the rows go by.
  if (weight->dtype == Dtype::f64) {
    const std::int64_t panel = loops.panel_bytes / kDoubleBytes;
    const auto* packed = static_cast<const double*>(weight->packed_f64.data());
    const double* bias = weight->bias_f64.empty() ? nullptr : weight->bias_f64.data();
    workers.for_each((weight->out + panel - 1) / panel * tiles, [&](std::int64_t task, int) {
      loops.matmul_f64(args, packed, bias, task / tiles, rows_of(task % tiles));
    });
    return;
  }
  workers.for_each(weight->product->num_chunks() * tiles, [&](std::int64_t task, int thread) {
    const Rows rows = rows_of(task % tiles);
    multiply_tile(args.out.row_slice(rows.first, rows.last - rows.first),
                  args.x.row_slice(rows.first, rows.last - rows.first), *weight, task / tiles, loops, workers, thread);
  });
}

}  // namespace layerprobe::device::cpu
