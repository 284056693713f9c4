// What a device's operations reach at the shapes of Llama-3.1-8B, as operations and bytes a second:
//
//   layerprobe_bench_device [DEVICE [DTYPE [TOKENS [NEWEST_CAPABILITY]]]]        cuda:0 bfloat16 8192 90
//
// Each figure is of calls queued for about 50 ms after a first one, so that the device never waits for the host. Bytes
// are what the operation must read and write once; operations are 2 a multiplication and addition, of attention those
// of the scores and values that are seen. Inputs are random.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iomanip>
#include <iostream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/float16.h"
#include "base/text.h"
#include "device/backends.h"
#include "tests/support/stored_file.h"

namespace {

using namespace layerprobe;
using device::Buffer;
using device::MatMulWeight;
using device::Ops;
using device::Tensor;

constexpr std::int64_t kHidden = 4096, kIntermediate = 14336, kHeads = 32, kKeyValueHeads = 8, kHeadDim = 128;
constexpr std::int64_t kQuery = kHeads * kHeadDim, kKeyValue = kKeyValueHeads * kHeadDim;

std::vector<std::byte> random_bytes(std::int64_t count, Dtype dtype, float scale) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size_of(dtype));
  std::uint32_t state = static_cast<std::uint32_t>(count);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = scale * (static_cast<float>(state >> 8) * 0x1p-23f - 1);
    if (dtype == Dtype::f64) reinterpret_cast<double*>(bytes.data())[i] = value;
    if (dtype == Dtype::f32) reinterpret_cast<float*>(bytes.data())[i] = value;
    if (dtype == Dtype::f16) reinterpret_cast<std::uint16_t*>(bytes.data())[i] = f16_of_f32(value);
    if (dtype == Dtype::bf16) reinterpret_cast<std::uint16_t*>(bytes.data())[i] = bf16_of_f32(value);
  }
  return bytes;
}

/// A matrix on the device. Its rows repeat after some, for numbers to be made fast.
struct Matrix {
  Matrix(Ops& ops, std::int64_t rows, std::int64_t columns, Dtype dtype)
      : buffer(ops.allocate(static_cast<std::size_t>(rows * columns) * size_of(dtype))),
        tensor(Tensor::contiguous(buffer.data(), dtype, rows, columns)) {
    constexpr std::int64_t kRows = 61;
    const std::vector<std::byte> some = random_bytes(std::min(kRows, rows) * columns, dtype, 2);
    for (std::int64_t row = 0; row < rows; row += kRows) {
      ops.copy_from_host(tensor.row_slice(row, std::min(kRows, rows - row)), some.data());
    }
  }

  Buffer buffer;
  Tensor tensor;
};

class Bench {
 public:
  explicit Bench(Ops& ops) : ops_(ops) {
    std::cout << std::left << std::setw(34) << "" << std::right << std::setw(10) << "us" << std::setw(12) << "TFLOP/s"
              << std::setw(10) << "GB/s"
              << "\n"
              << std::fixed;
  }

  void time(const std::string& name, double flop, double bytes, const std::function<void()>& call) {
    const double first = seconds(1, call);
    const int calls = std::clamp(static_cast<int>(0.05 / seconds(1, call)), 1, first > 1 ? 1 : 400);
    const double each = std::min(seconds(calls, call), seconds(calls, call)) / calls;
    std::cout << std::left << std::setw(34) << name << std::right << std::setprecision(1) << std::setw(10)
              << 1e6 * each;
    print(flop, each * 1e12, 12);
    print(bytes, each * 1e9, 10);
    std::cout << std::endl;
  }

 private:
  double seconds(int calls, const std::function<void()>& call) {
    ops_.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    ops_.synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  static void print(double amount, double unit, int width) {
    if (amount > 0) {
      std::cout << std::setw(width) << amount / unit;
    } else {
      std::cout << std::setw(width) << "";
    }
  }

  Ops& ops_;
};

void bench_products(Bench& bench, Ops& ops, Dtype dtype, std::int64_t tokens) {
  const std::vector<std::tuple<const char*, std::int64_t, std::int64_t>> shapes = {
      {"qkv_proj", kQuery + 2 * kKeyValue, kHidden},
      {"o_proj", kHidden, kQuery},
      {"gate_up_proj", 2 * kIntermediate, kHidden},
      {"down_proj", kHidden, kIntermediate}};
  for (const auto& [name, out_features, in_features] : shapes) {
    const std::vector<std::byte> values =
        random_bytes(out_features * in_features, dtype, 1 / std::sqrt(static_cast<float>(in_features)));
    test::StoredFile file;
    const auto weight = ops.matmul_weight(
        {.dtype = dtype, .weights = {file.add(out_features, in_features, test::storage_of(dtype), values)}});
    ops.finish_loads([](std::uint64_t) {});
    const auto start = std::chrono::steady_clock::now();
    ops.matmul_choices(std::vector<Ops::MatMulShape>{{in_features, out_features, dtype, false}});
    const double choosing = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const Matrix x(ops, tokens, in_features, dtype), out(ops, tokens, out_features, dtype);
    const double flop = 2.0 * static_cast<double>(tokens * out_features) * static_cast<double>(in_features);
    for (const std::int64_t count : {tokens, tokens / 8}) {
      bench.time(
          text(name, " ", count, " tokens"), flop * static_cast<double>(count) / static_cast<double>(tokens), 0, [&] {
            ops.matmul({.out = out.tensor.row_slice(0, count), .x = x.tensor.row_slice(0, count), .weight = *weight});
          });
    }
    std::cout << "  chosen in " << 1e3 * choosing << " ms\n";
  }
}

void bench_attention(Bench& bench, Ops& ops, Dtype dtype, std::int64_t prompts, std::int64_t length,
                     std::int64_t head_dim, std::int64_t window) {
  const std::int64_t tokens = prompts * length, query = kQuery / kHeadDim * head_dim,
                     key_value = kKeyValue / kHeadDim * head_dim;
  const Matrix qkv(ops, tokens, query + 2 * key_value, dtype), out(ops, tokens, query, dtype);
  std::vector<std::int64_t> cu_seqlens = {0};
  while (cu_seqlens.back() < tokens) cu_seqlens.push_back(cu_seqlens.back() + length);
  const auto n = static_cast<double>(length), w = static_cast<double>(window > 0 ? std::min(window, length) : length);
  const double seen = static_cast<double>(prompts) * (n * w - w * (w - 1) / 2);
  const std::string name =
      text("attention ", prompts, "x", length, " head_dim ", head_dim, window > 0 ? text(" window ", window) : "");
  bench.time(name, 4 * seen * static_cast<double>(query),
             static_cast<double>(tokens * (2 * query + 2 * key_value)) * static_cast<double>(size_of(dtype)), [&] {
               ops.attention({.out = out.tensor,
                              .query_states = qkv.tensor.column_slice(0, query),
                              .key_states = qkv.tensor.column_slice(query, key_value),
                              .value_states = qkv.tensor.column_slice(query + key_value, key_value),
                              .cu_seqlens = cu_seqlens,
                              .head_dim = head_dim,
                              .scaling = 1 / std::sqrt(static_cast<double>(head_dim)),
                              .sliding_window = window});
             });
}

void bench_the_rest(Bench& bench, Ops& ops, Dtype dtype, std::int64_t tokens) {
  const Matrix a(ops, tokens, kHidden, dtype), b(ops, tokens, kHidden, dtype), normed(ops, tokens, kHidden, dtype);
  const Matrix sum(ops, tokens, kHidden, dtype), weight(ops, 1, kHidden, dtype), head_weight(ops, 1, kHeadDim, dtype);
  const Matrix qkv(ops, tokens, kQuery + 2 * kKeyValue, dtype);
  const Matrix cos(ops, tokens, kHeadDim / 2, dtype), sin(ops, tokens, kHeadDim / 2, dtype);
  const Matrix gate_up(ops, tokens, 2 * kIntermediate, dtype), activated(ops, tokens, kIntermediate, dtype);
  const Matrix vocabulary(ops, 32768, kHidden, dtype), mean(ops, 8, kHidden, Dtype::f32);
  const Tensor states = qkv.tensor.column_slice(0, kQuery + kKeyValue);
  std::vector<std::int32_t> input_ids;
  for (std::int64_t t = 0; t < tokens; ++t) input_ids.push_back(static_cast<std::int32_t>(t * 7919 % 32768));
  std::vector<std::int64_t> cu_seqlens;
  for (std::int64_t prompt = 0; prompt <= 8; ++prompt) cu_seqlens.push_back(tokens * prompt / 8);
  std::vector<Statistics> statistics(8);
  const double row = static_cast<double>(tokens) * static_cast<double>(size_of(dtype));  // bytes of a column
  const double hidden = row * static_cast<double>(kHidden);

  bench.time("rms_norm", 0, 2 * hidden, [&] {
    ops.rms_norm({.out = normed.tensor, .hidden_states = a.tensor, .weight = weight.tensor, .rms_norm_eps = 1e-5});
  });
  bench.time("add", 0, 3 * hidden, [&] { ops.add({.out = sum.tensor, .a = a.tensor, .b = b.tensor}); });
  bench.time("add_rms_norm", 0, 4 * hidden, [&] {
    ops.add_rms_norm({.sum = sum.tensor,
                      .normed = normed.tensor,
                      .a = a.tensor,
                      .b = b.tensor,
                      .weight = weight.tensor,
                      .rms_norm_eps = 1e-5});
  });
  bench.time("rms_norm of heads (q and k)", 0, 2 * row * static_cast<double>(states.columns), [&] {
    ops.rms_norm({.out = states, .hidden_states = states, .weight = head_weight.tensor, .rms_norm_eps = 1e-5});
  });
  bench.time("rope (q and k)", 0, row * static_cast<double>(2 * states.columns + kHeadDim),
             [&] { ops.rope({.x = states, .cos = cos.tensor, .sin = sin.tensor, .head_dim = kHeadDim}); });
  bench.time("silu_mul", 0, 3 * row * static_cast<double>(kIntermediate), [&] {
    ops.silu_mul({.out = activated.tensor,
                  .gate = gate_up.tensor.column_slice(0, kIntermediate),
                  .up = gate_up.tensor.column_slice(kIntermediate, kIntermediate)});
  });
  bench.time("embedding", 0, 2 * hidden,
             [&] { ops.embedding({.out = sum.tensor, .weight = vocabulary.tensor, .input_ids = input_ids}); });
  bench.time("append_statistics of 8 prompts", 0, hidden,
             [&] { ops.append_statistics({.out = statistics, .x = a.tensor, .cu_rows = cu_seqlens}); });
  bench.time("mean_rows of 8 prompts", 0, hidden,
             [&] { ops.mean_rows({.out = mean.tensor, .x = a.tensor, .cu_seqlens = cu_seqlens}); });
}

int run(int argc, char** argv) {
  const auto ops = device::open_device(argc > 1 ? argv[1] : "cuda:0",
                                       {.cache_folder = {}, .newest_capability = argc > 4 ? std::atoi(argv[4]) : 1000});
  const std::optional<Dtype> dtype = find_dtype(argc > 2 ? argv[2] : "bfloat16");
  expect(dtype.has_value(), "DTYPE is float64, float32, float16 or bfloat16");
  const std::int64_t tokens = argc > 3 ? std::atoll(argv[3]) : 8192;
  std::cout << ops->code_path() << ", " << name_of(*dtype) << ", " << tokens << " tokens\n";
  Bench bench(*ops);
  bench_the_rest(bench, *ops, *dtype, tokens);
  bench_products(bench, *ops, *dtype, tokens);
  bench_attention(bench, *ops, *dtype, std::max<std::int64_t>(tokens / 1024, 1), std::min<std::int64_t>(tokens, 1024),
                  128, 0);
  if (tokens < 8192) return 0;
  bench_attention(bench, *ops, *dtype, tokens / 4096, 4096, 128, 0);
  bench_attention(bench, *ops, *dtype, 1, tokens * 2, 128, 0);
  bench_attention(bench, *ops, *dtype, tokens / 4096, 4096, 128, 1024);
  bench_attention(bench, *ops, *dtype, tokens / 4096, 4096, 64, 0);
  bench_attention(bench, *ops, *dtype, tokens / 4096, 4096, 256, 0);
  bench_attention(bench, *ops, *dtype, tokens / 128, 128, 128, 0);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
