#include "device/cpu/matmul.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/arguments.h"

namespace layerprobe::device::cpu {
namespace {

constexpr std::int64_t kPanelsOfTask = 8;  // 256 columns in f32 with AVX-512

std::int64_t arithmetic_bytes(Dtype dtype) { return dtype == Dtype::f64 ? sizeof(double) : sizeof(float); }

class CpuWeight : public MatMulWeight {
 public:
  std::int64_t in_features() const override { return in; }
  std::int64_t out_features() const override { return out; }
  std::size_t bytes() const override { return (product ? product->bytes() : packed.bytes()) + bias.bytes(); }

  std::int64_t in = 0, out = 0;
  Dtype dtype = Dtype::f32;
  std::optional<TiledProduct> product;  // oneDNN's of bf16, or
  Buffer packed;                        // Loops::pack_weight's
  Buffer bias;                          // [out] in f64 or f32, or nothing
};

class CpuExpertWeights : public ExpertWeights {
 public:
  std::int64_t num_experts() const override { return static_cast<std::int64_t>(experts.size()); }
  std::int64_t in_features() const override { return experts[0]->in_features(); }
  std::int64_t out_features() const override { return experts[0]->out_features(); }
  std::size_t bytes() const override {
    return std::transform_reduce(experts.begin(), experts.end(), std::size_t{0}, std::plus(),
                                 [](const auto& expert) { return expert->bytes(); });
  }

  Dtype dtype = Dtype::f32;
  std::vector<std::unique_ptr<MatMulWeight>> experts;
};

void copy_rows(std::byte* to, const Tensor& from) {
  const std::size_t row_bytes = static_cast<std::size_t>(from.columns) * size_of(from.dtype);
  for (std::int64_t row = 0; row < from.rows; ++row) {
    std::memcpy(to + static_cast<std::size_t>(row) * row_bytes, from.row_slice(row, 1).data, row_bytes);
  }
}

/// Calls work(rows of a part, how many of `wanted` come before them) for each part that has some of the rows `wanted`
/// of the stacked parts.
template <typename Work>
void for_parts(std::span<const Tensor> parts, Rows wanted, Work&& work) {
  std::int64_t part_first = 0;
  for (const Tensor& part : parts) {
    const std::int64_t from = std::max(wanted.first, part_first);
    const std::int64_t to = std::min(wanted.last, part_first + part.rows);
    if (from < to) work(part.row_slice(from - part_first, to - from), from - wanted.first);
    part_first += part.rows;
  }
}

void pack_for_onednn(CpuWeight& weight, std::span<const Tensor> parts, Workers& workers) {
  TiledProduct& product = *weight.product;
  const std::int64_t row_bytes = weight.in * static_cast<std::int64_t>(size_of(weight.dtype));
  workers.for_each(product.num_chunks(), [&](std::int64_t chunk, int thread) {
    const std::int64_t first = product.first_column(chunk);
    const std::int64_t columns = product.num_columns(chunk);
    auto* staging = static_cast<std::byte*>(workers.scratch(thread, columns * row_bytes));
    const void* chunk_rows = staging;
    for_parts(parts, {first, first + columns}, [&](const Tensor& rows, std::int64_t before) {
      if (rows.rows == columns && rows.is_contiguous()) {
        chunk_rows = rows.data;
      } else {
        copy_rows(staging + before * row_bytes, rows);
      }
    });
    product.pack(chunk, chunk_rows);
  });
}

void pack_for_loops(CpuWeight& weight, std::span<const Tensor> parts, const Loops& loops, Workers& workers) {
  const std::int64_t element = arithmetic_bytes(weight.dtype);
  const std::int64_t columns = loops.panel_bytes / element;
  const std::int64_t panels = (weight.out + columns - 1) / columns;
  const std::int64_t panel_bytes = weight.in * loops.panel_bytes;
  weight.packed = allocate_bytes(static_cast<std::size_t>(panels * panel_bytes));
  workers.for_each(panels, [&](std::int64_t panel, int) {
    auto* packed = static_cast<std::byte*>(weight.packed.data());
    if (panel + 1 == panels) std::memset(packed + panel * panel_bytes, 0, static_cast<std::size_t>(panel_bytes));
    for_parts(parts, {panel * columns, (panel + 1) * columns}, [&](const Tensor& rows, std::int64_t before) {
      loops.pack_weight(packed, rows, panel * columns + before);
    });
  });
}

/// The parts in the host's memory, until they are packed.
struct Parts {
  explicit Parts(const Ops::MatMulWeightParts& stored) {
    for (const StoredValues& values : stored.weights) weights.push_back(read(values, stored.dtype));
    for (const auto& values : stored.biases) biases.push_back(values ? read(*values, stored.dtype) : Tensor{});
  }

  std::vector<Tensor> weights;
  std::vector<Tensor> biases;  // without data where a part has none

 private:
  Tensor read(const StoredValues& values, Dtype dtype) {
    buffers_.push_back(allocate_bytes(static_cast<std::size_t>(values.rows * values.columns) * size_of(dtype)));
    values.read_values(dtype, buffers_.back().data());
    return Tensor::contiguous(buffers_.back().data(), dtype, values.rows, values.columns);
  }

  std::vector<Buffer> buffers_;
};

void take_biases(CpuWeight& weight, const Parts& parts, const Loops& loops) {
  if (parts.biases.empty()) return;
  const std::int64_t element = arithmetic_bytes(weight.dtype);
  weight.bias = allocate_bytes(static_cast<std::size_t>(weight.out * element));
  std::memset(weight.bias.data(), 0, weight.bias.bytes());
  auto* place = static_cast<std::byte*>(weight.bias.data());
  for (std::size_t i = 0; i < parts.weights.size(); ++i) {
    const Tensor& bias = parts.biases[i];
    if (bias.data != nullptr && bias.dtype == Dtype::f64) copy_rows(place, bias);
    if (bias.data != nullptr && bias.dtype != Dtype::f64) {
      loops.expand_rows({.data = reinterpret_cast<float*>(place), .row_stride = 0}, bias);
    }
    place += parts.weights[i].rows * element;
  }
}

/// One tile of rows, at most TiledProduct::kRows, with one chunk of the weight.
void multiply_tile(const Tensor& out, const Tensor& x, const CpuWeight& weight, std::int64_t chunk, const Loops& loops,
                   Workers& workers, int thread) {
  constexpr std::int64_t kRows = TiledProduct::kRows;
  const TiledProduct& product = *weight.product;
  const std::int64_t first_column = product.first_column(chunk);
  const std::int64_t columns = product.num_columns(chunk);
  const std::int64_t row_bytes = weight.in * static_cast<std::int64_t>(size_of(weight.dtype));
  const std::int64_t tile_bytes = round_up(kRows * row_bytes, kAlignment);
  const std::int64_t sums_bytes = round_up(kRows * columns * static_cast<std::int64_t>(sizeof(float)), kAlignment);
  auto* scratch = static_cast<std::byte*>(
      workers.scratch(thread, tile_bytes + sums_bytes + static_cast<std::int64_t>(product.scratch_bytes())));
  auto* sums = reinterpret_cast<float*>(scratch + tile_bytes);

  const void* tile = x.data;
  if (x.rows < kRows || !x.is_contiguous()) {
    copy_rows(scratch, x);
    std::memset(scratch + x.rows * row_bytes, 0, static_cast<std::size_t>((kRows - x.rows) * row_bytes));
    tile = scratch;
  }
  product.multiply(chunk, tile, sums, scratch + tile_bytes + sums_bytes);
  const auto* bias = static_cast<const float*>(weight.bias.data());
  loops.round_rows(out.column_slice(first_column, columns), {.data = sums, .row_stride = columns},
                   bias == nullptr ? nullptr : bias + first_column);
}

}  // namespace

std::unique_ptr<MatMulWeight> pack_weight(const Ops::MatMulWeightParts& stored, const Loops& loops, OneDnn* onednn,
                                          Workers& workers) {
  const Parts parts(stored);
  auto weight = std::make_unique<CpuWeight>();
  weight->in = parts.weights[0].columns;
  weight->dtype = stored.dtype;
  for (const Tensor& part : parts.weights) weight->out += part.rows;
  expect(weight->out > 0, "a weight has rows");
  if (weight->dtype == Dtype::bf16 && onednn != nullptr) {
    TiledProduct product(*onednn, weight->in, weight->out);
    if (product.rows_agree()) weight->product.emplace(std::move(product));
  }
  if (weight->product) {
    pack_for_onednn(*weight, parts.weights, workers);
  } else {
    pack_for_loops(*weight, parts.weights, loops, workers);
  }
  take_biases(*weight, parts, loops);
  return weight;
}

void matmul(const Ops::MatMul& args, const Loops& loops, Workers& workers) {
  const auto* weight = dynamic_cast<const CpuWeight*>(&args.weight);
  expect(weight != nullptr, "a weight is multiplied on the device that made it");
  check(args, weight->dtype);
  const std::int64_t tile = weight->product ? TiledProduct::kRows : loops.matmul_rows;
  const std::int64_t tiles = (args.x.rows + tile - 1) / tile;
  const std::int64_t panel_columns = loops.panel_bytes / arithmetic_bytes(weight->dtype);
  const std::int64_t panels = (weight->out + panel_columns - 1) / panel_columns;
  const std::int64_t chunks =
      weight->product ? weight->product->num_chunks() : (panels + kPanelsOfTask - 1) / kPanelsOfTask;
  // Chunks outside, tiles inside: a chunk of the weight stays in each core's cache while the rows go by.
  workers.for_each(chunks * tiles, [&](std::int64_t task, int thread) {
    const std::int64_t chunk = task / tiles;
    const std::int64_t first = task % tiles * tile;
    const std::int64_t rows = std::min(tile, args.x.rows - first);
    const Tensor out = args.out.row_slice(first, rows), x = args.x.row_slice(first, rows);
    if (weight->product) {
      multiply_tile(out, x, *weight, chunk, loops, workers, thread);
    } else {
      loops.matmul(out, x, weight->packed.data(), weight->bias.data(),
                   {chunk * kPanelsOfTask, std::min(panels, (chunk + 1) * kPanelsOfTask)},
                   workers.scratch(thread, loops.matmul_scratch_bytes(x)));
    }
  });
}

std::unique_ptr<ExpertWeights> pack_expert_weights(const Ops::ExpertWeightsParts& stored, const Loops& loops,
                                                   OneDnn* onednn, Workers& workers) {
  auto weights = std::make_unique<CpuExpertWeights>();
  weights->dtype = stored.dtype;
  for (const std::vector<StoredValues>& expert : stored.experts) {
    weights->experts.push_back(pack_weight({.dtype = stored.dtype, .weights = expert}, loops, onednn, workers));
  }
  return weights;
}

void expert_matmul(const Ops::ExpertMatMul& args, const Loops& loops, Workers& workers) {
  const auto* weights = dynamic_cast<const CpuExpertWeights*>(&args.weight);
  expect(weights != nullptr, "experts' weights are multiplied on the device that made them");
  check(args, weights->dtype);
  for (std::size_t i = 0; i + 1 < args.first_rows.size(); ++i) {
    const std::int64_t first = args.first_rows[i] - args.first_rows[0];
    const std::int64_t rows = args.first_rows[i + 1] - args.first_rows[i];
    if (rows == 0) continue;
    matmul({.out = args.out.row_slice(first, rows),
            .x = args.x.row_slice(first, rows),
            .weight = *weights->experts[static_cast<std::size_t>(args.first_expert) + i]},
           loops, workers);
  }
}

}  // namespace layerprobe::device::cpu
