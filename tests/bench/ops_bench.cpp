// What a decoder layer's operations take on the CPU, and what its matrix products alone would allow:
//
//   layerprobe_bench_ops HIDDEN INTERMEDIATE HEADS KEY_VALUE_HEADS HEAD_DIM LAYERS TOKENS DTYPE [PROMPT_TOKENS]
//   [THREADS] layerprobe_bench_ops 576 1536 9 3 64 30 1024 bfloat16
//
// Prints a table with a row for each operation and then, one a line, `products_alone_tokens_per_second` (the bound of a
// run of all layers) and `all_operations_tokens_per_second`. Each time is the least of several runs. Weights and inputs
// are random; every layer has its own weights, so that they come from memory as they do in a run.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iomanip>
#include <iostream>
#include <vector>

#include "base/error.h"
#include "base/float16.h"
#include "device/ops.h"
#include "tests/support/stored_file.h"

namespace {

using namespace layerprobe;
using device::Buffer;
using device::MatMulWeight;
using device::Ops;
using device::Tensor;

/// Memory of the host, filled with numbers of about the size of activations.
struct Matrix {
  Matrix(std::int64_t rows, std::int64_t columns, Dtype dtype, float scale = 1)
      : bytes(static_cast<std::size_t>(rows * columns) * size_of(dtype)) {
    tensor = Tensor::contiguous(bytes.data(), dtype, rows, columns);
    std::uint32_t state = static_cast<std::uint32_t>(rows * 31 + columns);
    for (std::size_t i = 0; i < static_cast<std::size_t>(rows * columns); ++i) {
      state = state * 1664525u + 1013904223u;
      const float value = scale * (static_cast<float>(state >> 8) * 0x1p-23f - 1);
      if (dtype == Dtype::f64) reinterpret_cast<double*>(bytes.data())[i] = value;
      if (dtype == Dtype::f32) reinterpret_cast<float*>(bytes.data())[i] = value;
      if (dtype == Dtype::f16) reinterpret_cast<std::uint16_t*>(bytes.data())[i] = f16_of_f32(value);
      if (dtype == Dtype::bf16) reinterpret_cast<std::uint16_t*>(bytes.data())[i] = bf16_of_f32(value);
    }
  }

  std::vector<std::byte> bytes;
  Tensor tensor;
};

double least_seconds(int runs, const std::function<void()>& work) {
  double least = 1e30;
  for (int run = 0; run < runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    work();
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return least;
}

std::unique_ptr<MatMulWeight> random_weight(Ops& ops, std::int64_t out, std::int64_t in, Dtype dtype) {
  const Matrix weight(out, in, dtype, 1 / std::sqrt(static_cast<float>(in)));
  test::StoredFile file;
  auto loaded =
      ops.matmul_weight({.dtype = dtype, .weights = {file.add(out, in, test::storage_of(dtype), weight.bytes)}});
  ops.finish_loads([](std::uint64_t) {});
  return loaded;
}

struct LayerWeights {
  std::unique_ptr<MatMulWeight> qkv_proj, o_proj, gate_up_proj, down_proj;
};

int run(int argc, char** argv) {
  if (argc < 9) {
    std::cerr << "usage: layerprobe_bench_ops HIDDEN INTERMEDIATE HEADS KEY_VALUE_HEADS HEAD_DIM LAYERS TOKENS DTYPE "
                 "[PROMPT_TOKENS] [THREADS]\n";
    return 2;
  }
  const auto number = [&](int index, std::int64_t otherwise) {
    return index < argc ? std::atoll(argv[index]) : otherwise;
  };
  const std::int64_t hidden = number(1, 0), intermediate = number(2, 0), heads = number(3, 0);
  const std::int64_t key_value_heads = number(4, 0), head_dim = number(5, 0), layers = number(6, 0);
  const std::int64_t tokens = number(7, 0), prompt_tokens = number(9, 256);
  const std::optional<Dtype> dtype = find_dtype(argv[8]);
  expect(dtype.has_value(), "DTYPE is float64, float32, float16 or bfloat16");
  const auto ops = device::cpu_ops(static_cast<int>(number(10, 0)));

  const std::int64_t q = heads * head_dim, kv = key_value_heads * head_dim;
  std::vector<LayerWeights> weights;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    weights.push_back({random_weight(*ops, q + 2 * kv, hidden, *dtype), random_weight(*ops, hidden, q, *dtype),
                       random_weight(*ops, 2 * intermediate, hidden, *dtype),
                       random_weight(*ops, hidden, intermediate, *dtype)});
  }
  const Matrix x(tokens, hidden, *dtype), normed(tokens, hidden, *dtype), norm_weight(1, hidden, *dtype);
  const Matrix qkv(tokens, q + 2 * kv, *dtype), attended(tokens, q, *dtype), out(tokens, hidden, *dtype);
  const Matrix gate_up(tokens, 2 * intermediate, *dtype), gated(tokens, intermediate, *dtype);
  const Matrix cos(tokens, head_dim / 2, *dtype), sin(tokens, head_dim / 2, *dtype);
  std::vector<std::int64_t> cu_seqlens = {0};
  while (cu_seqlens.back() < tokens) cu_seqlens.push_back(std::min(tokens, cu_seqlens.back() + prompt_tokens));
  std::vector<Statistics> statistics(cu_seqlens.size() - 1);

  struct Step {
    const char* name;
    bool is_product;
    std::function<void(const LayerWeights&)> work;
  };
  const std::vector<Step> steps = {
      {"rms_norm", false,
       [&](const LayerWeights&) {
         ops->rms_norm(
             {.out = normed.tensor, .hidden_states = x.tensor, .weight = norm_weight.tensor, .rms_norm_eps = 1e-5});
       }},
      {"qkv_proj", true,
       [&](const LayerWeights& w) { ops->matmul({.out = qkv.tensor, .x = normed.tensor, .weight = *w.qkv_proj}); }},
      {"rope q and k", false,
       [&](const LayerWeights&) {
         ops->rope(
             {.x = qkv.tensor.column_slice(0, q + kv), .cos = cos.tensor, .sin = sin.tensor, .head_dim = head_dim});
       }},
      {"attention", false,
       [&](const LayerWeights&) {
         ops->attention({.out = attended.tensor,
                         .query_states = qkv.tensor.column_slice(0, q),
                         .key_states = qkv.tensor.column_slice(q, kv),
                         .value_states = qkv.tensor.column_slice(q + kv, kv),
                         .cu_seqlens = cu_seqlens,
                         .head_dim = head_dim,
                         .scaling = 1 / std::sqrt(static_cast<double>(head_dim)),
                         .sliding_window = 0});
       }},
      {"o_proj", true,
       [&](const LayerWeights& w) { ops->matmul({.out = out.tensor, .x = attended.tensor, .weight = *w.o_proj}); }},
      {"add", false, [&](const LayerWeights&) { ops->add({.out = normed.tensor, .a = x.tensor, .b = out.tensor}); }},
      {"rms_norm", false,
       [&](const LayerWeights&) {
         ops->rms_norm(
             {.out = normed.tensor, .hidden_states = x.tensor, .weight = norm_weight.tensor, .rms_norm_eps = 1e-5});
       }},
      {"gate_up_proj", true,
       [&](const LayerWeights& w) {
         ops->matmul({.out = gate_up.tensor, .x = normed.tensor, .weight = *w.gate_up_proj});
       }},
      {"silu_mul", false,
       [&](const LayerWeights&) {
         ops->silu_mul({.out = gated.tensor,
                        .gate = gate_up.tensor.column_slice(0, intermediate),
                        .up = gate_up.tensor.column_slice(intermediate, intermediate)});
       }},
      {"down_proj", true,
       [&](const LayerWeights& w) { ops->matmul({.out = out.tensor, .x = gated.tensor, .weight = *w.down_proj}); }},
      {"add", false, [&](const LayerWeights&) { ops->add({.out = normed.tensor, .a = x.tensor, .b = out.tensor}); }},
      {"statistics", false,
       [&](const LayerWeights&) {
         ops->append_statistics({.out = statistics, .x = normed.tensor, .cu_rows = cu_seqlens});
       }},
  };
  const auto run_layers = [&](const auto& chosen) {
    for (const LayerWeights& layer : weights) {
      for (const Step& step : steps) {
        if (chosen(step)) step.work(layer);
      }
    }
  };

  constexpr int kRuns = 7;
  const double products = least_seconds(kRuns, [&] { run_layers([](const Step& step) { return step.is_product; }); });
  const double all = least_seconds(kRuns, [&] { run_layers([](const Step&) { return true; }); });
  std::cout << ops->code_path() << ", " << tokens << " tokens, " << name_of(*dtype) << "\n" << std::fixed;
  for (const Step& step : steps) {
    const double seconds =
        least_seconds(kRuns, [&] { run_layers([&](const Step& other) { return &other == &step; }); });
    std::cout << std::left << std::setw(16) << step.name << std::right << std::setprecision(3) << std::setw(10)
              << 1e6 * seconds / static_cast<double>(layers * tokens) << " us a token and layer" << std::setprecision(1)
              << std::setw(8) << 100 * seconds / products << "% of the products\n";
  }
  const auto total = static_cast<double>(tokens);
  const double flop = 2 * total * static_cast<double>(layers * hidden * (2 * q + 2 * kv + 3 * intermediate));
  std::cout << "products_alone_gflop_per_second " << flop / products / 1e9 << "\n"
            << "products_alone_tokens_per_second " << total / products << "\n"
            << "all_operations_tokens_per_second " << total / all << "\n";
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
