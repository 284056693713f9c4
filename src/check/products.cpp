#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "base/float16.h"
#include "base/handle.h"
#include "base/text.h"
#include "check/devices.h"
#include "weights/read_values.h"

namespace layerprobe::check {
namespace {

using device::Tensor;

constexpr std::int64_t kCheckedRows = 64;
constexpr double kLeastShare = 0.9;  // of the median's rate; ten GPUs of one machine differ by some percent at most
constexpr double kMostRounds = 1e5;

/// "798", "0.11"
std::string tera_text(double flops) {
  const double tera = flops / 1e12;
  char out[32];
  std::snprintf(out, sizeof out, tera < 10 ? "%.2f" : "%.0f", tera);
  return out;
}

/// Integers in [-7, 7]: products of 7 * 7 summed over up to 340,000 features are exact in f32.
std::vector<std::int16_t> small_integers(std::int64_t count, std::uint32_t seed) {
  std::vector<std::int16_t> values(static_cast<std::size_t>(count));
  std::uint32_t state = seed;
  for (std::int16_t& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<std::int16_t>(static_cast<int>((state >> 16) % 15) - 7);
  }
  return values;
}

std::vector<std::uint16_t> in_bf16(const std::vector<std::int16_t>& values) {
  std::vector<std::uint16_t> out(values.size());
  std::ranges::transform(values, out.begin(), [](std::int16_t value) { return bf16_of_f32(value); });
  return out;
}

/// A file in memory, as weights come from files.
class MemoryFile {
 public:
  explicit MemoryFile(const std::vector<std::uint16_t>& values)
      : descriptor_(::memfd_create("layerprobe-check", MFD_CLOEXEC)),
        file_(File::open_for_writing(text("/proc/self/fd/", descriptor_.get()))) {
    file_.write_at(0, std::as_bytes(std::span(values)));
  }
  const File& file() const { return file_; }

 private:
  Handle<int, close_descriptor, -1> descriptor_;
  File file_;
};

/// The matrices, and what the product is.
class Product {
 public:
  explicit Product(const Effort& effort)
      : num_tokens(effort.num_tokens),
        features(effort.features),
        x_(small_integers(num_tokens * features, 1)),
        weight_(small_integers(features * features, 2)),
        x_bf16_(in_bf16(x_)),
        file_(in_bf16(weight_)) {
    const std::int64_t count = std::min(kCheckedRows, num_tokens), step = num_tokens / count;
    for (std::int64_t i = 0; i < count; ++i) rows_.push_back(i * step + i * 37 % step);
    due_.resize(rows_.size() * static_cast<std::size_t>(features));
    for (std::int64_t out = 0; out < features; ++out) {
      for (std::size_t i = 0; i < rows_.size(); ++i) {
        const std::int16_t* const x = x_.data() + rows_[i] * features;
        const std::int16_t* const w = weight_.data() + out * features;
        std::int32_t sum = 0;
        for (std::int64_t k = 0; k < features; ++k) sum += std::int32_t{x[k]} * w[k];
        due_[i * static_cast<std::size_t>(features) + static_cast<std::size_t>(out)] =
            bf16_of_f32(static_cast<float>(sum));
      }
    }
  }

  device::StoredValues weight() const {
    const weights::TensorInfo info{.name = "weight",
                                   .storage = Storage::bf16,
                                   .shape = {features, features},
                                   .offset = 0,
                                   .bytes = file_.file().size()};
    return {.rows = features,
            .columns = features,
            .storage = Storage::bf16,
            .file = &file_.file(),
            .offset = 0,
            .read_values = [this, info](Dtype dtype, void* out) {
              weights::read_values(file_.file(), info, dtype, static_cast<std::byte*>(out));
            }};
  }
  const void* x() const { return x_bf16_.data(); }

  /// The first element of the device's result that is not right; empty when all are.
  std::string wrong(device::Ops& ops, const Tensor& result) const {
    std::vector<std::uint16_t> found(static_cast<std::size_t>(features));
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      ops.copy_to_host(found.data(), result.row_slice(rows_[i], 1));
      const std::uint16_t* const due = due_.data() + i * found.size();
      const auto [at, wanted] = std::mismatch(found.begin(), found.end(), due);
      if (at == found.end()) continue;
      return text("element [", rows_[i], ", ", at - found.begin(), "] is ", f32_of_bf16(*at), " where ",
                  f32_of_bf16(*wanted), " is due");
    }
    return {};
  }

  const std::int64_t num_tokens, features;
  double flop() const { return 2.0 * static_cast<double>(num_tokens * features) * static_cast<double>(features); }

 private:
  std::vector<std::int16_t> x_, weight_;
  std::vector<std::uint16_t> x_bf16_;
  MemoryFile file_;
  std::vector<std::int64_t> rows_;  // that are checked
  std::vector<std::uint16_t> due_;  // [rows_, features], bf16
};

/// The product on one device.
class Multiplier {
 public:
  Multiplier(device::Ops& ops, const Product& product)
      : ops_(ops),
        product_(product),
        memory_(ops.allocate(bytes())),
        out_memory_(ops.allocate(bytes())),
        x_(Tensor::contiguous(memory_.data(), Dtype::bf16, product.num_tokens, product.features)),
        out_(Tensor::contiguous(out_memory_.data(), Dtype::bf16, product.num_tokens, product.features)) {
    weight_ = ops.matmul_weight({.dtype = Dtype::bf16, .weights = {product.weight()}});
    ops.finish_loads([](std::uint64_t) {});
    ops.copy_from_host(x_, product.x());
    ops.copy_from_host(out_, product.x());  // an element that is left unwritten is wrong
  }

  void multiply() { ops_.matmul({.out = out_, .x = x_, .weight = *weight_}); }
  std::string wrong() const { return product_.wrong(ops_, out_); }

  /// How many products take that long.
  int rounds(double seconds) {
    const auto time = [&] {
      const auto start = std::chrono::steady_clock::now();
      multiply();
      ops_.synchronize();
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    time();  // it chooses how, the first time
    return static_cast<int>(std::clamp(seconds / time(), 1.0, kMostRounds));
  }
  void start() {
    stopwatch_ = ops_.stopwatch();
    stopwatch_->start();
  }
  void stop() { stopwatch_->stop(); }
  double seconds() {
    ops_.synchronize();
    return stopwatch_->seconds();
  }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(product_.num_tokens * product_.features) * 2; }

  device::Ops& ops_;
  const Product& product_;
  device::Buffer memory_, out_memory_;
  Tensor x_, out_;
  std::unique_ptr<device::MatMulWeight> weight_;
  std::unique_ptr<device::Stopwatch> stopwatch_;
};

}  // namespace

std::vector<ProductTrial> try_products(const Bench& bench, const Effort& effort) {
  const Product product(effort);
  std::vector<ProductTrial> trials(bench.devices.size());
  std::vector<std::unique_ptr<Multiplier>> multipliers(bench.devices.size());
  const auto on_each = [&](const auto& act) {
    for (std::size_t i = 0; i < trials.size(); ++i) {
      if (trials[i].failure) continue;
      try {
        act(i);
      } catch (const Error& error) {
        trials[i].failure = error;
      }
    }
  };
  on_each([&](std::size_t i) {
    trials[i].device = bench.devices[i]->name();
    multipliers[i] = std::make_unique<Multiplier>(*bench.devices[i], product);
  });
  if (effort.product_seconds > 0) {
    int rounds = 0;
    on_each([&](std::size_t i) { rounds = std::max(rounds, multipliers[i]->rounds(effort.product_seconds)); });
    on_each([&](std::size_t i) { multipliers[i]->start(); });
    const auto half =
        std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                               std::chrono::duration<double>(effort.product_seconds / 2));
    for (int round = 0; round < rounds; ++round) {  // in turn: none waits for another's queue to have room
      on_each([&](std::size_t i) { multipliers[i]->multiply(); });
      if (round != rounds / 2) continue;
      std::this_thread::sleep_until(half);  // this thread is ahead of GPUs, which get hot only then
      bench.meanwhile();
    }
    on_each([&](std::size_t i) { multipliers[i]->stop(); });
    on_each([&](std::size_t i) { trials[i].flops = rounds * product.flop() / multipliers[i]->seconds(); });
  } else {
    on_each([&](std::size_t i) { multipliers[i]->multiply(); });
  }
  on_each([&](std::size_t i) { trials[i].wrong = multipliers[i]->wrong(); });
  return trials;
}

Items judge_products(const std::vector<ProductTrial>& trials, const std::vector<Gpu>& gpus) {
  const auto model_of = [&](const std::string& device) {
    const auto found = std::ranges::find(gpus, device, &Gpu::name);
    return found == gpus.end() ? std::string() : found->info.model;
  };
  std::map<std::string, std::vector<double>> rates;  // of each model
  for (const ProductTrial& trial : trials) {
    if (!trial.failure && trial.flops > 0) rates[model_of(trial.device)].push_back(trial.flops);
  }
  for (auto& [model, each] : rates) std::ranges::sort(each);
  Items items;
  for (const ProductTrial& trial : trials) {
    Item item{.name = text(trial.device, " product"), .measured = "right"};
    if (trial.failure) {
      items.push_back(failed(item.name, *trial.failure));
      continue;
    }
    if (trial.flops > 0) item.measured += text(", ", tera_text(trial.flops), " TFLOP/s");
    if (!trial.wrong.empty()) {
      item.status = Status::fail;
      item.measured = trial.wrong;
      item.expected = "what the host computes";
      item.advice =
          "do not use this device (--device-map): it computes wrongly; see dmesg | grep -i xid, and have it "
          "looked at";
    } else if (trial.flops > 0) {
      const std::vector<double>& others = rates[model_of(trial.device)];
      const double median = others[others.size() / 2];
      if (trial.flops < kLeastShare * median) {
        item.status = Status::warn;
        item.expected = text(100 * kLeastShare, "% of the others' ", tera_text(median), " TFLOP/s");
        item.advice =
            "the others will wait for it: see its clocks and temperature (nvidia-smi -q -d PERFORMANCE), or "
            "leave it out (--device-map)";
      }
    }
    items.push_back(std::move(item));
  }
  return items;
}

}  // namespace layerprobe::check
