#include "device/cpu/cpu_ops.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "device/arguments.h"
#include "device/cpu/onednn.h"
#include "device/cpu/parallel.h"

namespace layerprobe::device::cpu {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::int64_t kElementsPerTask = 16384;          // of a loop over rows: less is not worth another thread
constexpr std::int64_t kPackedKeyValuesBytes = 32 << 20;  // that attention packs at a time, one prompt at least

std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

Buffer allocate_bytes(std::size_t bytes) {
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  void* data = rounded < bytes ? nullptr : std::aligned_alloc(kAlignment, rounded);
  if (data == nullptr) {
    throw Error({.kind = ErrorKind::resource,
                 .where = "cpu",
                 .what = text("not enough memory for ", bytes, " bytes"),
                 .fix = "lower --tokens-per-batch, or run fewer layers with --layers"});
  }
  return Buffer(data, bytes, std::free);
}

/// Memory that a call needs while it runs; kept for the next call, and only ever grows.
class Scratch {
 public:
  void* reserve(std::size_t bytes) {
    if (buffer_.bytes() < bytes) {
      buffer_ = Buffer();
      buffer_ = allocate_bytes(bytes);
    }
    return buffer_.data();
  }

 private:
  Buffer buffer_;
};

class CpuWeight : public MatMulWeight {
 public:
  std::int64_t in_features() const override { return in; }
  std::int64_t out_features() const override { return out; }
  std::size_t bytes() const override {
    return (product ? product->bytes() : packed_f64.bytes()) + bias.size() * sizeof(float) +
           bias_f64.size() * sizeof(double);
  }

  std::int64_t in = 0, out = 0;
  Dtype dtype = Dtype::f32;             // of x, out and the checkpoint's weight
  Dtype multiplied = Dtype::f32;        // what the product runs in: dtype, or f32 where x and weight are expanded
  std::optional<TiledProduct> product;  // nothing for f64
  std::vector<float> bias;              // [out], or empty
  Buffer packed_f64;
  std::vector<double> bias_f64;
};

class CpuOps : public Ops {
 public:
  CpuOps(const Loops& loops, bool native_bf16, int threads)
      : loops_(loops), native_bf16_(native_bf16), threads_(threads), scratch_(static_cast<std::size_t>(threads)) {}

  std::string name() const override { return "cpu"; }
  std::string code_path() const override {
    return text("cpu ", loops_.name, native_bf16_ ? ", bf16 products, " : ", f32 products, ", onednn_name());
  }
  void synchronize() override {}

  Buffer allocate(std::size_t bytes) override { return allocate_bytes(bytes); }
  void copy_from_host(const Tensor& out, const void* host) override;
  void copy_to_host(void* host, const Tensor& x) override;
  std::unique_ptr<MatMulWeight> matmul_weight(const MatMulWeightParts& parts) override;
  void matmul(const MatMul& args) override;
  void embedding(const Embedding& args) override;
  void rms_norm(const RmsNorm& args) override;
  void rope(const Rope& args) override;
  void attention(const Attention& args) override;
  void silu_mul(const SiluMul& args) override;
  void add(const Add& args) override;
  void row_statistics(const RowStatistics& args) override;
  void mean_rows(const MeanRows& args) override;

 private:
  /// Calls work(rows) for shares of `x`'s rows on all threads.
  template <typename Work>
  void for_rows(const Tensor& x, Work&& work) {
    const std::int64_t per_task = std::max<std::int64_t>(1, kElementsPerTask / x.columns);
    parallel_for(threads_, (x.rows + per_task - 1) / per_task, [&](std::int64_t task, int) {
      work(Rows{task * per_task, std::min(x.rows, (task + 1) * per_task)});
    });
  }
  void* thread_scratch(int thread, std::int64_t bytes) {
    return scratch_[static_cast<std::size_t>(thread)].reserve(static_cast<std::size_t>(bytes));
  }
  void pack(CpuWeight& weight, const MatMulWeightParts& parts);
  void pack_f64(CpuWeight& weight, const MatMulWeightParts& parts);
  void multiply_tile(const MatMul& args, const CpuWeight& weight, std::int64_t chunk, Rows rows, int thread);
  void attend_prompts(const Attention& args, std::span<Prompt> prompts);

  const Loops& loops_;
  const bool native_bf16_;
  const int threads_;
  std::vector<Scratch> scratch_;  // one a thread
  Scratch packed_keys_, packed_values_;
};

void CpuOps::copy_from_host(const Tensor& out, const void* host) {
  check_tensor("copy_from_host", "out", out);
  const std::size_t row_bytes = static_cast<std::size_t>(out.columns) * size_of(out.dtype);
  for_rows(out, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      std::memcpy(out.row_slice(row, 1).data,
                  static_cast<const std::byte*>(host) + static_cast<std::size_t>(row) * row_bytes, row_bytes);
    }
  });
}

void CpuOps::copy_to_host(void* host, const Tensor& x) {
  check_tensor("copy_to_host", "x", x);
  const std::size_t row_bytes = static_cast<std::size_t>(x.columns) * size_of(x.dtype);
  for_rows(x, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      std::memcpy(static_cast<std::byte*>(host) + static_cast<std::size_t>(row) * row_bytes, x.row_slice(row, 1).data,
                  row_bytes);
    }
  });
}

std::unique_ptr<MatMulWeight> CpuOps::matmul_weight(const MatMulWeightParts& parts) {
  check(parts);
  auto weight = std::make_unique<CpuWeight>();
  weight->in = parts.weights[0].columns;
  weight->dtype = parts.weights[0].dtype;
  for (const Tensor& part : parts.weights) weight->out += part.rows;
  if (weight->dtype == Dtype::f64) {
    pack_f64(*weight, parts);
  } else {
    weight->multiplied = weight->dtype == Dtype::bf16 && native_bf16_ ? Dtype::bf16 : Dtype::f32;
    pack(*weight, parts);
  }
  return weight;
}

void CpuOps::pack(CpuWeight& weight, const MatMulWeightParts& parts) {
  weight.product.emplace(weight.in, weight.out, weight.multiplied);
  const TiledProduct& product = *weight.product;
  parallel_for(threads_, product.num_chunks(), [&](std::int64_t chunk, int thread) {
    const std::int64_t first = product.first_column(chunk);
    const std::int64_t last = first + product.num_columns(chunk);
    const std::size_t element = size_of(weight.multiplied);
    auto* staging = static_cast<std::byte*>(
        thread_scratch(thread, (last - first) * weight.in * static_cast<std::int64_t>(element)));
    std::int64_t part_first = 0;
    for (const Tensor& part : parts.weights) {  // a chunk may hold the end of one part and the beginning of the next
      const std::int64_t from = std::max(first, part_first);
      const std::int64_t to = std::min(last, part_first + part.rows);
      if (from < to) {
        std::byte* rows = staging + static_cast<std::size_t>((from - first) * weight.in) * element;
        const Tensor source = part.row_slice(from - part_first, to - from);
        if (weight.multiplied == weight.dtype) {
          for (std::int64_t row = 0; row < source.rows; ++row) {
            const std::size_t row_bytes = static_cast<std::size_t>(weight.in) * element;
            std::memcpy(rows + static_cast<std::size_t>(row) * row_bytes, source.row_slice(row, 1).data, row_bytes);
          }
        } else {
          loops_.expand_rows({.data = reinterpret_cast<float*>(rows), .row_stride = weight.in}, source);
        }
      }
      part_first += part.rows;
    }
    weight.product->pack(chunk, staging);
  });
  if (parts.biases.empty()) return;
  weight.bias.assign(static_cast<std::size_t>(weight.out), 0.0f);
  std::int64_t first = 0;
  for (std::size_t i = 0; i < parts.weights.size(); ++i) {
    const Tensor& bias = parts.biases[i];
    if (bias.data != nullptr)
      loops_.expand_rows({.data = weight.bias.data() + first, .row_stride = bias.columns}, bias);
    first += parts.weights[i].rows;
  }
}

void CpuOps::pack_f64(CpuWeight& weight, const MatMulWeightParts& parts) {
  const std::int64_t panel = loops_.panel_bytes / static_cast<std::int64_t>(sizeof(double));
  const std::int64_t columns = round_up(weight.out, panel);
  weight.packed_f64 = allocate_bytes(static_cast<std::size_t>(columns * weight.in) * sizeof(double));
  auto* packed = static_cast<double*>(weight.packed_f64.data());
  std::fill_n(packed + (columns - panel) * weight.in, panel * weight.in, 0.0);
  std::int64_t first = 0;
  for (const Tensor& part : parts.weights) {
    loops_.pack_f64_weight(packed, part, first);
    first += part.rows;
  }
  if (parts.biases.empty()) return;
  weight.bias_f64.assign(static_cast<std::size_t>(weight.out), 0.0);
  first = 0;
  for (std::size_t i = 0; i < parts.weights.size(); ++i) {
    if (parts.biases[i].data != nullptr) {
      std::memcpy(weight.bias_f64.data() + first, parts.biases[i].data,
                  static_cast<std::size_t>(parts.biases[i].columns) * sizeof(double));
    }
    first += parts.weights[i].rows;
  }
}

void CpuOps::matmul(const MatMul& args) {
  const auto* weight = dynamic_cast<const CpuWeight*>(&args.weight);
  expect(weight != nullptr, "a weight is multiplied on the device that made it");
  check(args, weight->dtype);
  const std::int64_t tile = TiledProduct::kRows;
  const std::int64_t tiles = (args.x.rows + tile - 1) / tile;
  const auto rows_of = [&](std::int64_t index) {
    return Rows{index * tile, std::min(args.x.rows, (index + 1) * tile)};
  };
  // Tiles inside, chunks outside: a chunk of the weight stays in each core's cache while rows go by.
  if (weight->dtype == Dtype::f64) {
    const std::int64_t panel = loops_.panel_bytes / static_cast<std::int64_t>(sizeof(double));
    const double* bias = weight->bias_f64.empty() ? nullptr : weight->bias_f64.data();
    parallel_for(threads_, (weight->out + panel - 1) / panel * tiles, [&](std::int64_t task, int) {
      loops_.matmul_f64(args, static_cast<const double*>(weight->packed_f64.data()), bias, task / tiles,
                        rows_of(task % tiles));
    });
    return;
  }
  parallel_for(threads_, weight->product->num_chunks() * tiles, [&](std::int64_t task, int thread) {
    multiply_tile(args, *weight, task / tiles, rows_of(task % tiles), thread);
  });
}

void CpuOps::multiply_tile(const MatMul& args, const CpuWeight& weight, std::int64_t chunk, Rows rows, int thread) {
  constexpr std::int64_t kRows = TiledProduct::kRows;
  const TiledProduct& product = *weight.product;
  const std::int64_t columns = product.num_columns(chunk);
  const std::int64_t row_bytes = weight.in * static_cast<std::int64_t>(size_of(weight.multiplied));
  const std::int64_t x_bytes = round_up(kRows * row_bytes, kAlignment);
  const std::int64_t sums_bytes = round_up(kRows * columns * static_cast<std::int64_t>(sizeof(float)), kAlignment);
  auto* scratch = static_cast<std::byte*>(
      thread_scratch(thread, x_bytes + sums_bytes + static_cast<std::int64_t>(product.scratch_bytes())));
  auto* sums = reinterpret_cast<float*>(scratch + x_bytes);

  const Tensor x = args.x.row_slice(rows.first, rows.last - rows.first);
  const void* tile = x.data;
  if (weight.multiplied != weight.dtype) {
    loops_.expand_rows({.data = reinterpret_cast<float*>(scratch), .row_stride = weight.in}, x);
    tile = scratch;
  } else if (x.rows < kRows || !x.is_contiguous()) {
    for (std::int64_t row = 0; row < x.rows; ++row) {
      std::memcpy(scratch + row * row_bytes, x.row_slice(row, 1).data, static_cast<std::size_t>(row_bytes));
    }
    tile = scratch;
  }
  if (x.rows < kRows)
    std::memset(scratch + x.rows * row_bytes, 0, static_cast<std::size_t>((kRows - x.rows) * row_bytes));
  product.multiply(chunk, tile, sums, scratch + x_bytes + sums_bytes);

  const std::int64_t first_column = product.first_column(chunk);
  const Tensor out = args.out.row_slice(rows.first, x.rows).column_slice(first_column, columns);
  loops_.round_rows(out, {.data = sums, .row_stride = columns},
                    weight.bias.empty() ? nullptr : weight.bias.data() + first_column);
}

void CpuOps::embedding(const Embedding& args) {
  check(args);
  const std::size_t row_bytes = static_cast<std::size_t>(args.out.columns) * size_of(args.out.dtype);
  for_rows(args.out, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      const std::int32_t id = args.input_ids[static_cast<std::size_t>(row)];
      std::memcpy(args.out.row_slice(row, 1).data, args.weight.row_slice(id, 1).data, row_bytes);
    }
  });
}

void CpuOps::rms_norm(const RmsNorm& args) {
  check(args);
  for_rows(args.out, [&](Rows rows) { loops_.rms_norm(args, rows); });
}

void CpuOps::rope(const Rope& args) {
  check(args);
  for_rows(args.x, [&](Rows rows) { loops_.rope(args, rows); });
}

void CpuOps::silu_mul(const SiluMul& args) {
  check(args);
  for_rows(args.out, [&](Rows rows) { loops_.silu_mul(args, rows); });
}

void CpuOps::add(const Add& args) {
  check(args);
  for_rows(args.out, [&](Rows rows) { loops_.add(args, rows); });
}

void CpuOps::attention(const Attention& args) {
  check(args);
  const std::int64_t element = args.out.dtype == Dtype::f64 ? sizeof(double) : sizeof(float);
  const std::int64_t token_bytes = 2 * args.key_states.columns * element;  // of a key and a value, packed
  const std::int64_t panel_keys = loops_.panel_bytes / element;
  std::vector<Prompt> prompts;
  std::int64_t packed_bytes = 0;
  for (std::size_t i = 0; i + 1 < args.cu_seqlens.size(); ++i) {
    const Prompt prompt{.begin = args.cu_seqlens[i], .end = args.cu_seqlens[i + 1], .key_offset = 0, .value_offset = 0};
    if (prompt.begin == prompt.end) continue;
    const std::int64_t bytes = round_up(prompt.end - prompt.begin, panel_keys) * token_bytes;
    if (packed_bytes + bytes > kPackedKeyValuesBytes && !prompts.empty()) {
      attend_prompts(args, prompts);
      prompts.clear();
      packed_bytes = 0;
    }
    prompts.push_back(prompt);
    packed_bytes += bytes;
  }
  attend_prompts(args, prompts);
}

void CpuOps::attend_prompts(const Attention& args, std::span<Prompt> prompts) {
  if (prompts.empty()) return;
  const std::int64_t element = args.out.dtype == Dtype::f64 ? sizeof(double) : sizeof(float);
  const std::int64_t panel = loops_.panel_bytes / element;
  const std::int64_t num_heads = args.query_states.columns / args.head_dim;
  const std::int64_t num_key_value_heads = args.key_states.columns / args.head_dim;
  struct Part {  // of a prompt, to pack or to attend
    const Prompt* prompt;
    Rows tokens;
  };
  std::vector<Part> to_pack, to_attend;
  std::int64_t keys = 0, values = 0;
  const std::int64_t step = loops_.attention_query_tokens;
  const std::int64_t pack_step = round_up(step, panel);
  for (Prompt& prompt : prompts) {
    const std::int64_t num_tokens = prompt.end - prompt.begin;
    prompt.key_offset = keys * args.head_dim;
    prompt.value_offset = values * panel;
    keys += round_up(num_tokens, panel);
    values += num_tokens;
    for (std::int64_t token = 0; token < num_tokens; token += pack_step) {
      to_pack.push_back({&prompt, {token, std::min(num_tokens, token + pack_step)}});
    }
    for (std::int64_t token = 0; token < num_tokens; token += step) {
      to_attend.push_back({&prompt, {token, std::min(num_tokens, token + step)}});
    }
  }
  const std::int64_t head_panels = (args.head_dim + panel - 1) / panel;
  PackedKeyValues packed{.keys = nullptr,
                         .values = nullptr,
                         .key_head_stride = keys * args.head_dim,
                         .value_head_stride = values * head_panels * panel,
                         .value_panel_stride = values * panel};
  packed.keys = packed_keys_.reserve(static_cast<std::size_t>(num_key_value_heads * packed.key_head_stride * element));
  packed.values =
      packed_values_.reserve(static_cast<std::size_t>(num_key_value_heads * packed.value_head_stride * element));
  parallel_for(threads_, static_cast<std::int64_t>(to_pack.size()) * num_key_value_heads, [&](std::int64_t task, int) {
    const Part& part = to_pack[static_cast<std::size_t>(task / num_key_value_heads)];
    loops_.pack_key_values(args, packed, *part.prompt, task % num_key_value_heads, part.tokens);
  });
  // The parts with the most keys come last in a prompt and take longest: first, so that no thread ends alone.
  std::stable_sort(to_attend.begin(), to_attend.end(),
                   [](const Part& a, const Part& b) { return a.tokens.first > b.tokens.first; });
  const std::int64_t scratch_bytes = loops_.attention_scratch_bytes(args);
  parallel_for(threads_, static_cast<std::int64_t>(to_attend.size()) * num_heads, [&](std::int64_t task, int thread) {
    const Part& part = to_attend[static_cast<std::size_t>(task / num_heads)];
    loops_.attention(args, packed, *part.prompt, task % num_heads, part.tokens, thread_scratch(thread, scratch_bytes));
  });
}

void CpuOps::row_statistics(const RowStatistics& args) {
  check(args);
  for_rows(args.x, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      const RowSums sums = loops_.row_statistics(args.x, row);
      args.out[static_cast<std::size_t>(row)] = {.count = args.x.columns,
                                                 .sum = sums.sum,
                                                 .sum_of_squares = sums.sum_of_squares,
                                                 .min = sums.min,
                                                 .max = sums.max,
                                                 .abs_max = sums.abs_max,
                                                 .abs_max_row = sums.abs_max_column < 0 ? -1 : 0,
                                                 .abs_max_column = sums.abs_max_column,
                                                 .nan_count = sums.nan_count,
                                                 .inf_count = sums.inf_count,
                                                 .first_non_finite_row = sums.nan_count + sums.inf_count > 0 ? 0 : -1};
    }
  });
}

void CpuOps::mean_rows(const MeanRows& args) {
  check(args);
  constexpr std::int64_t kColumns = 64;  // of a task
  const std::int64_t parts = (args.x.columns + kColumns - 1) / kColumns;
  parallel_for(threads_, args.out.rows * parts, [&](std::int64_t task, int) {
    const std::int64_t prompt = task / parts;
    const std::int64_t first = task % parts * kColumns;
    const std::int64_t columns = std::min(kColumns, args.x.columns - first);
    const std::int64_t begin = args.cu_seqlens[static_cast<std::size_t>(prompt)];
    const std::int64_t end = args.cu_seqlens[static_cast<std::size_t>(prompt) + 1];
    loops_.mean_rows(args.out.row_slice(prompt, 1).column_slice(first, columns),
                     args.x.row_slice(begin, end - begin).column_slice(first, columns));
  });
}

}  // namespace

std::unique_ptr<Ops> cpu_ops_on(const Loops& loops, bool native_bf16, int threads) {
  expect(threads >= 0, "a number of threads is not negative");
  return std::make_unique<CpuOps>(loops, native_bf16, threads > 0 ? threads : omp_get_max_threads());
}

}  // namespace layerprobe::device::cpu

namespace layerprobe::device {

std::unique_ptr<Ops> cpu_ops(int threads) {
  return cpu::cpu_ops_on(*cpu::supported_loops().front(), cpu::onednn_has_bf16(), threads);
}

}  // namespace layerprobe::device
