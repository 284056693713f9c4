#include "device/cpu/cpu_ops.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "device/arguments.h"
#include "device/cpu/attention.h"
#include "device/cpu/experts.h"
#include "device/cpu/matmul.h"
#include "device/cpu/onednn.h"
#include "device/cpu/workers.h"

namespace layerprobe::device::cpu {
namespace {

/// Work is done when its call returns.
struct CpuMark : Mark {
  void wait() override {}
};

struct CpuMoment : Moment {
  void wait() const override {}
};

/// Each is done when it is queued.
struct CpuLoads : Loads {
  void wait(const std::function<void(std::uint64_t bytes)>&) override {}
};

class CpuStopwatch : public Stopwatch {
 public:
  void start() override { start_ = Clock::now(); }
  void stop() override { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }
  double seconds() override { return seconds_; }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_;
  double seconds_ = 0;
};

/// What a device holds, and the most that it ever held. Any thread.
class MemoryCount {
 public:
  void add(std::uint64_t bytes) {
    const std::uint64_t now = held_ += bytes;
    for (std::uint64_t most = most_; most < now && !most_.compare_exchange_weak(most, now);) {
    }
  }
  void remove(std::uint64_t bytes) { held_ -= bytes; }
  Ops::MemoryUse use() const { return {.bytes = held_, .most_bytes = most_}; }

 private:
  std::atomic<std::uint64_t> held_ = 0, most_ = 0;
};

/// A weight that is counted while it lives.
class CountedWeight : public MatMulWeight {
 public:
  CountedWeight(std::unique_ptr<MatMulWeight> weight, MemoryCount& count) : weight_(std::move(weight)), count_(count) {
    count_.add(bytes());
  }
  ~CountedWeight() override { count_.remove(bytes()); }
  CountedWeight(const CountedWeight&) = delete;
  CountedWeight& operator=(const CountedWeight&) = delete;

  std::int64_t in_features() const override { return weight_->in_features(); }
  std::int64_t out_features() const override { return weight_->out_features(); }
  std::size_t bytes() const override { return weight_->bytes(); }
  const MatMulWeight& weight() const { return *weight_; }

 private:
  std::unique_ptr<MatMulWeight> weight_;
  MemoryCount& count_;
};

class CountedExpertWeights : public ExpertWeights {
 public:
  CountedExpertWeights(std::unique_ptr<ExpertWeights> weights, MemoryCount& count)
      : weights_(std::move(weights)), count_(count) {
    count_.add(bytes());
  }
  ~CountedExpertWeights() override { count_.remove(bytes()); }
  CountedExpertWeights(const CountedExpertWeights&) = delete;
  CountedExpertWeights& operator=(const CountedExpertWeights&) = delete;

  std::int64_t num_experts() const override { return weights_->num_experts(); }
  std::int64_t in_features() const override { return weights_->in_features(); }
  std::int64_t out_features() const override { return weights_->out_features(); }
  std::size_t bytes() const override { return weights_->bytes(); }
  const ExpertWeights& weights() const { return *weights_; }

 private:
  std::unique_ptr<ExpertWeights> weights_;
  MemoryCount& count_;
};

class CpuOps : public Ops {
 public:
  CpuOps(const Loops& loops, bool native_bf16, int threads, std::string name)
      : name_(std::move(name)), loops_(loops), workers_(threads) {
    if (native_bf16) onednn_.emplace();
  }

  std::string name() const override { return name_; }
  std::string code_path() const override {
    return text("cpu ", loops_.name, onednn_ ? ", bf16 by " + onednn_name() : "");
  }
  void synchronize() override {}

  Buffer allocate(std::size_t bytes) override;
  std::uint64_t free_bytes() override { return available_bytes(); }
  void copy_from_host(const Tensor& out, const void* host) override;
  void copy_to_host(void* host, const Tensor& x) override;
  Buffer allocate_on_host(std::size_t bytes) override { return allocate_bytes(bytes, 4096); }
  void start_copy_to_host(void* host, const Tensor& x) override { copy_to_host(host, x); }
  std::unique_ptr<Mark> mark() override { return std::make_unique<CpuMark>(); }
  std::unique_ptr<Moment> moment() override { return std::make_unique<CpuMoment>(); }
  void follow(const Moment&) override {}
  Buffer allocate_shared(std::size_t bytes) override { return allocate(bytes); }
  std::unique_ptr<Moment> start_copy_from_host(const Tensor& out, const void* host, const Moment*) override {
    copy_from_host(out, host);
    return moment();
  }
  bool reaches(const Ops& other) const override { return dynamic_cast<const CpuOps*>(&other) != nullptr; }
  std::unique_ptr<Moment> send(const Send& args) override {
    copy_to_host(args.out.data, args.x);
    return moment();
  }
  std::unique_ptr<Stopwatch> stopwatch() override { return std::make_unique<CpuStopwatch>(); }
  MemoryUse memory_use() const override { return memory_.use(); }
  // One writer: the processors are busy with the layers.
  CaptureResources capture_resources() override { return {.ring_bytes = std::size_t{48} << 20, .writers = 1}; }
  bool keeps_fp8() const override { return false; }
  void reserve(std::size_t) override {}
  void load(const Load& args) override;
  std::unique_ptr<MatMulWeight> matmul_weight(const MatMulWeightParts& parts) override;
  std::unique_ptr<ExpertWeights> expert_weights(const ExpertWeightsParts& parts) override;
  std::unique_ptr<Loads> start_loads() override { return std::make_unique<CpuLoads>(); }
  void matmul(const MatMul& args) override;
  std::string matmul_choices(std::span<const MatMulShape>) override { return {}; }
  void use_matmul_choices(std::string_view) override {}
  void embedding(const Embedding& args) override;
  void rms_norm(const RmsNorm& args) override;
  void add_rms_norm(const AddRmsNorm& args) override;
  void rope(const Rope& args) override;
  void attention(const Attention& args) override;
  void expand_key_values(const ExpandKeyValues& args) override;
  void silu_mul(const SiluMul& args) override;
  void add(const Add& args) override;
  void expand(const Expand& args) override;
  void route_tokens(const RouteTokens& args) override;
  void group_by_expert(const GroupByExpert& args) override;
  void gather_rows(const GatherRows& args) override;
  void expert_matmul(const ExpertMatMul& args) override;
  void combine_experts(const CombineExperts& args) override;
  void append_statistics(const AppendStatistics& args) override;
  void mean_rows(const MeanRows& args) override;

 private:
  const std::string name_;
  MemoryCount memory_;
  const Loops& loops_;
  std::optional<OneDnn> onednn_;  // where it multiplies bf16
  Workers workers_;
  AttentionScratch attention_scratch_;
  std::vector<RowSums> row_sums_;
};

std::size_t row_bytes(const Tensor& x) { return static_cast<std::size_t>(x.columns) * size_of(x.dtype); }

Buffer CpuOps::allocate(std::size_t bytes) {
  auto memory = std::make_shared<Buffer>(allocate_bytes(bytes));
  memory_.add(bytes);
  void* const data = memory->data();
  return Buffer(data, bytes, [this, bytes, memory = std::move(memory)](void*) { memory_.remove(bytes); });
}

void CpuOps::copy_from_host(const Tensor& out, const void* host) {
  check_tensor("copy_from_host", "out", out, Elements::any);
  workers_.for_rows(out, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      const auto* from = static_cast<const std::byte*>(host) + static_cast<std::size_t>(row) * row_bytes(out);
      std::memcpy(out.row_slice(row, 1).data, from, row_bytes(out));
    }
  });
}

void CpuOps::copy_to_host(void* host, const Tensor& x) {
  check_tensor("copy_to_host", "x", x, Elements::any);
  workers_.for_rows(x, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      auto* to = static_cast<std::byte*>(host) + static_cast<std::size_t>(row) * row_bytes(x);
      std::memcpy(to, x.row_slice(row, 1).data, row_bytes(x));
    }
  });
}

void CpuOps::load(const Load& args) {
  check(args);
  if (args.out.is_contiguous()) return args.values.read_values(args.out.dtype, args.out.data);
  const Buffer packed = allocate_bytes(static_cast<std::size_t>(args.out.rows) * row_bytes(args.out));
  args.values.read_values(args.out.dtype, packed.data());
  copy_from_host(args.out, packed.data());
}

std::unique_ptr<MatMulWeight> CpuOps::matmul_weight(const MatMulWeightParts& parts) {
  check(parts);
  return std::make_unique<CountedWeight>(pack_weight(parts, loops_, onednn_ ? &*onednn_ : nullptr, workers_), memory_);
}

std::unique_ptr<ExpertWeights> CpuOps::expert_weights(const ExpertWeightsParts& parts) {
  check(parts);
  return std::make_unique<CountedExpertWeights>(
      pack_expert_weights(parts, loops_, onednn_ ? &*onednn_ : nullptr, workers_), memory_);
}

void CpuOps::matmul(const MatMul& args) {
  const auto* weight = dynamic_cast<const CountedWeight*>(&args.weight);
  expect(weight != nullptr, "a weight is multiplied on the device that made it");
  cpu::matmul({.out = args.out, .x = args.x, .weight = weight->weight()}, loops_, workers_);
}

void CpuOps::embedding(const Embedding& args) {
  check(args);
  workers_.for_rows(args.out, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      const std::int32_t id = args.input_ids[static_cast<std::size_t>(row)];
      std::memcpy(args.out.row_slice(row, 1).data, args.weight.row_slice(id, 1).data, row_bytes(args.out));
    }
  });
}

void CpuOps::rms_norm(const RmsNorm& args) {
  check(args);
  workers_.for_rows(args.out, [&](Rows rows) { loops_.rms_norm(args, rows); });
}

void CpuOps::add_rms_norm(const AddRmsNorm& args) {
  check(args);
  add({.out = args.sum, .a = args.a, .b = args.b});
  rms_norm({.out = args.normed, .hidden_states = args.sum, .weight = args.weight, .rms_norm_eps = args.rms_norm_eps});
}

void CpuOps::rope(const Rope& args) {
  check(args);
  workers_.for_rows(args.x, [&](Rows rows) { loops_.rope(args, rows); });
}

void CpuOps::attention(const Attention& args) {
  check(args);
  cpu::attention(args, loops_, workers_, attention_scratch_);
}

void CpuOps::expand_key_values(const ExpandKeyValues& args) {
  check(args);
  const auto heads = static_cast<std::size_t>(args.num_heads);
  const std::size_t rotated_bytes = row_bytes(args.k_rot), value_bytes = row_bytes(args.value_states) / heads;
  const std::size_t plain_bytes = row_bytes(args.key_states) / heads - rotated_bytes;
  workers_.for_rows(args.kv, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      auto* key = static_cast<std::byte*>(args.key_states.row_slice(row, 1).data);
      auto* value = static_cast<std::byte*>(args.value_states.row_slice(row, 1).data);
      const auto* kv = static_cast<const std::byte*>(args.kv.row_slice(row, 1).data);
      for (std::size_t head = 0; head < heads; ++head) {
        std::memcpy(key, kv, plain_bytes);
        std::memcpy(key + plain_bytes, args.k_rot.row_slice(row, 1).data, rotated_bytes);
        std::memcpy(value, kv + plain_bytes, value_bytes);
        key += plain_bytes + rotated_bytes;
        kv += plain_bytes + value_bytes;
        value += value_bytes;
      }
    }
  });
}

void CpuOps::silu_mul(const SiluMul& args) {
  check(args);
  workers_.for_rows(args.out, [&](Rows rows) { loops_.silu_mul(args, rows); });
}

void CpuOps::add(const Add& args) {
  check(args);
  workers_.for_rows(args.out, [&](Rows rows) { loops_.add(args, rows); });
}

void CpuOps::expand(const Expand& args) {
  check(args);
  workers_.for_rows(args.x, [&](Rows rows) {
    const Tensor out = args.out.row_slice(rows.first, rows.last - rows.first);
    loops_.expand_rows({.data = static_cast<float*>(out.data), .row_stride = out.row_stride},
                       args.x.row_slice(rows.first, rows.last - rows.first));
  });
}

void CpuOps::route_tokens(const RouteTokens& args) {
  check(args);
  workers_.for_rows(args.router_logits, [&](Rows rows) { cpu::route_tokens(args, rows); });
}

void CpuOps::group_by_expert(const GroupByExpert& args) {
  check(args);
  cpu::group_by_expert(args);
}

void CpuOps::gather_rows(const GatherRows& args) {
  check(args);
  workers_.for_rows(args.out, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      const std::int32_t from = *static_cast<const std::int32_t*>(args.rows.row_slice(row, 1).data);
      std::memcpy(args.out.row_slice(row, 1).data, args.x.row_slice(from, 1).data, row_bytes(args.out));
    }
  });
}

void CpuOps::expert_matmul(const ExpertMatMul& args) {
  const auto* weights = dynamic_cast<const CountedExpertWeights*>(&args.weight);
  expect(weights != nullptr, "experts' weights are multiplied on the device that made them");
  cpu::expert_matmul({.out = args.out,
                      .x = args.x,
                      .weight = weights->weights(),
                      .first_expert = args.first_expert,
                      .first_rows = args.first_rows},
                     loops_, workers_);
}

void CpuOps::combine_experts(const CombineExperts& args) {
  check(args);
  workers_.for_rows(args.out, [&](Rows rows) { cpu::combine_experts(args, rows); });
}

/// Integers as f32, which has all that are below 2^24.
Buffer as_f32(const Tensor& x) {
  Buffer out = allocate_bytes(static_cast<std::size_t>(x.rows * x.columns) * sizeof(float));
  auto* to = static_cast<float*>(out.data());
  for (std::int64_t row = 0; row < x.rows; ++row) {
    const auto* from = static_cast<const std::int32_t*>(x.row_slice(row, 1).data);
    for (std::int64_t column = 0; column < x.columns; ++column) *to++ = static_cast<float>(from[column]);
  }
  return out;
}

void CpuOps::append_statistics(const AppendStatistics& args) {
  check(args);
  if (args.x.dtype == Dtype::i32) {
    const Buffer x = as_f32(args.x);
    return append_statistics({.out = args.out,
                              .x = Tensor::contiguous(x.data(), Dtype::f32, args.x.rows, args.x.columns),
                              .cu_rows = args.cu_rows});
  }
  row_sums_.resize(static_cast<std::size_t>(args.x.rows));
  workers_.for_rows(args.x, [&](Rows rows) {
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      row_sums_[static_cast<std::size_t>(row)] = loops_.row_statistics(args.x, row);
    }
  });
  for (std::size_t prompt = 0; prompt < args.out.size(); ++prompt) {
    for (std::int64_t row = args.cu_rows[prompt]; row < args.cu_rows[prompt + 1]; ++row) {
      args.out[prompt].append(row_sums_[static_cast<std::size_t>(row)], args.x.columns);
    }
  }
}

void CpuOps::mean_rows(const MeanRows& args) {
  check(args);
  if (args.x.dtype == Dtype::i32) {
    const Buffer x = as_f32(args.x);
    return mean_rows({.out = args.out,
                      .x = Tensor::contiguous(x.data(), Dtype::f32, args.x.rows, args.x.columns),
                      .cu_seqlens = args.cu_seqlens});
  }
  constexpr std::int64_t kColumns = 64;  // of a task
  const std::int64_t parts = (args.x.columns + kColumns - 1) / kColumns;
  workers_.for_each(args.out.rows * parts, [&](std::int64_t task, int) {
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

std::unique_ptr<Ops> cpu_ops_on(const Loops& loops, bool native_bf16, int threads, std::string name) {
  expect(threads >= 0, "a number of threads is not negative");
  return std::make_unique<CpuOps>(loops, native_bf16, threads > 0 ? threads : omp_get_max_threads(), std::move(name));
}

}  // namespace layerprobe::device::cpu

namespace layerprobe::device {

int cpu_threads() { return omp_get_max_threads(); }

std::unique_ptr<Ops> cpu_ops(int threads, std::string name) {
  return cpu::cpu_ops_on(*cpu::supported_loops().front(), cpu::onednn_has_bf16(), threads, std::move(name));
}

}  // namespace layerprobe::device
