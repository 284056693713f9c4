#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/session.h"

namespace layerprobe::cli {

/// What is read of a GPU itself, beside what a run knows; nothing where it does not say.
struct GpuHealth {
  std::string device;                     // "cuda:0"
  std::optional<double> used_bytes = {};  // of its memory, by all programs
  std::optional<double> total_bytes = {};
  std::optional<double> utilization = {};  // share of the last second or so in which a kernel ran
  std::optional<double> temperature = {};  // degrees Celsius
};

/// Reads that of all GPUs that this program sees, by NVML; empty where there is none or NVML does not start.
std::function<std::vector<GpuHealth>()> gpu_reader();

/// A run's state in a file of Prometheus' text format, as node_exporter's textfile collector reads it (--metrics). Each
/// write replaces the file in one step. Every value has a label `run`, the file's name without ".prom": files of
/// several runs may lie in one folder. One thread at a time.
class Metrics {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  /// Writes it for the first time. Throws Error(usage) when the name does not end with .prom or it cannot be written.
  /// `about`: labels of layerprobe_run_info. `gpus` may be empty.
  Metrics(std::filesystem::path path, Labels about, std::function<std::vector<GpuHealth>()> gpus = {});

  /// Throws Error(resource) when it cannot be written.
  void write(const runtime::RunState& state);
  /// The last time: "finished", "stopped" or "failed". What goes wrong is dropped: the run's own end matters more.
  void end(const char* how) noexcept;

 private:
  using Clock = std::chrono::steady_clock;

  void replace(const char* phase);
  std::string text_of(const char* phase) const;

  const std::filesystem::path path_;
  const std::string run_;
  const Labels about_;
  const std::function<std::vector<GpuHealth>()> gpus_;
  const double start_time_;  // seconds since 1970
  runtime::RunState state_;
  Clock::time_point state_at_ = Clock::now();
  double tokens_per_second_ = 0;
};

}  // namespace layerprobe::cli
