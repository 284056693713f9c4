#include "cli/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <iomanip>
#include <limits>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "cli/table.h"
#include "device/backends.h"

namespace layerprobe::cli {
namespace {

namespace fs = std::filesystem;

/// A label's value: UTF-8, in which backslashes, quotes and line ends are escaped.
std::string escaped(const std::string& value) {
  std::string out;
  for (const char c : is_utf8(value) ? value : printable(value)) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? "\\n" : std::string(1, c);
  }
  return out;
}

/// One metric after the other: its help and type, then its values.
class Exposition {
 public:
  explicit Exposition(std::string run) : run_(std::move(run)) {
    out_ << std::setprecision(std::numeric_limits<double>::digits10);
  }

  void metric(const char* name, const char* type, const char* help) {
    name_ = name;
    out_ << "# HELP layerprobe_" << name << " " << help << "\n# TYPE layerprobe_" << name << " " << type << "\n";
  }
  void value(double value, const Metrics::Labels& labels = {}) {
    out_ << "layerprobe_" << name_ << "{run=\"" << escaped(run_) << "\"";
    for (const auto& [label, of_label] : labels) out_ << "," << label << "=\"" << escaped(of_label) << "\"";
    out_ << "} " << value << "\n";
  }
  std::string text() const { return out_.str(); }

 private:
  std::string run_;
  std::string name_;
  std::ostringstream out_;
};

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

/// What a device may wait for, as labels have it, and as DeviceState does.
struct Wait {
  const char* label;
  const char* waits_for;
  double runtime::DeviceState::*seconds;
};
constexpr std::array<Wait, 4> kWaits = {{{"weights", "weights", &runtime::DeviceState::weights_seconds},
                                         {"upstream", "upstream", &runtime::DeviceState::upstream_seconds},
                                         {"downstream", "downstream", &runtime::DeviceState::downstream_seconds},
                                         {"captures", "the ring of captures", &runtime::DeviceState::ring_seconds}}};

void add_devices(Exposition& out, const std::vector<runtime::DeviceState>& devices) {
  if (devices.empty()) return;
  out.metric("device_memory_bytes", "gauge", "Memory that the run has taken of the device.");
  for (const runtime::DeviceState& device : devices) {
    out.value(static_cast<double>(device.memory_bytes), {{"device", device.name}});
  }
  out.metric("device_waits", "gauge", "1 while the device waits for that and does not compute.");
  for (const runtime::DeviceState& device : devices) {
    for (const Wait& wait : kWaits) {
      out.value(device.waits_for == wait.waits_for ? 1 : 0, {{"device", device.name}, {"for", wait.label}});
    }
  }
  out.metric("device_wait_seconds_total", "counter", "That the device has waited for that, without the wait it is in.");
  for (const runtime::DeviceState& device : devices) {
    for (const Wait& wait : kWaits) out.value(device.*wait.seconds, {{"device", device.name}, {"for", wait.label}});
  }
}

void add_gpus(Exposition& out, const std::vector<GpuHealth>& gpus) {
  const auto metric = [&](const char* name, const char* help, std::optional<double> GpuHealth::*value) {
    if (std::ranges::none_of(gpus, [&](const GpuHealth& gpu) { return (gpu.*value).has_value(); })) return;
    out.metric(name, "gauge", help);
    for (const GpuHealth& gpu : gpus) {
      if (gpu.*value) out.value(*(gpu.*value), {{"device", gpu.device}});
    }
  };
  metric("gpu_memory_used_bytes", "Memory of the GPU in use, by all programs.", &GpuHealth::used_bytes);
  metric("gpu_memory_total_bytes", "Memory of the GPU.", &GpuHealth::total_bytes);
  metric("gpu_utilization_ratio", "Share of the last second in which a kernel ran on the GPU.",
         &GpuHealth::utilization);
  metric("gpu_temperature_celsius", "Temperature of the GPU.", &GpuHealth::temperature);
}

fs::path checked(fs::path path) {
  if (path.extension() == ".prom") return path;
  throw Error({.kind = ErrorKind::usage,
               .where = "--metrics",
               .what = text("\"", path.string(), "\" does not end with .prom, and would not be read"),
               .fix = "name a file such as layerprobe.prom in the textfile collector's folder"});
}

}  // namespace

std::function<std::vector<GpuHealth>()> gpu_reader() {
  const std::vector<device::DeviceInfo> infos = device::gpus();
  if (infos.empty()) return {};
  std::shared_ptr<device::Nvml> nvml;
  try {
    nvml = std::make_shared<device::Nvml>(device::open_nvml());
  } catch (const Error&) {  // layerprobe check says why
    return {};
  }
  return [infos, nvml] {
    std::vector<GpuHealth> gpus;
    const std::vector<device::GpuState> states = nvml->gpus();
    for (const device::DeviceInfo& info : infos) {
      const auto state = std::ranges::find(states, info.address, &device::GpuState::address);
      if (state == states.end()) continue;
      GpuHealth& gpu = gpus.emplace_back(GpuHealth{.device = info.name});
      if (state->memory) gpu.used_bytes = static_cast<double>(state->memory->used);
      if (state->memory) gpu.total_bytes = static_cast<double>(state->memory->total);
      if (state->utilization) gpu.utilization = *state->utilization / 100.0;
      if (state->temperature) gpu.temperature = *state->temperature;
    }
    return gpus;
  };
}

Metrics::Metrics(fs::path path, Labels about, std::function<std::vector<GpuHealth>()> gpus)
    : path_(checked(std::move(path))),
      run_(path_.stem().string()),
      about_(std::move(about)),
      gpus_(std::move(gpus)),
      start_time_(now()) {
  try {
    replace("preparing");
  } catch (const Error& error) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--metrics: " + error.parts().where,
                 .what = error.parts().what,
                 .fix = "name a file in a folder that is there and may be written"});
  }
}

void Metrics::write(const runtime::RunState& state) {
  const Clock::time_point at = Clock::now();
  const double seconds = std::chrono::duration<double>(at - state_at_).count();
  tokens_per_second_ = (state.tokens - state_.tokens) / std::max(seconds, 1e-9);
  state_at_ = at;
  state_ = state;
  replace(state.tokens > 0 || state.loaded_bytes >= state.load_bytes ? "running" : "loading");
}

void Metrics::end(const char* how) noexcept {
  try {
    tokens_per_second_ = 0;
    for (runtime::DeviceState& device : state_.devices) {
      device.waits_for.clear();
      device.memory_bytes = 0;
    }
    replace(how);
  } catch (const std::exception&) {
  }
}

void Metrics::replace(const char* phase) {
  const std::string all = text_of(phase);
  const fs::path unready = path_.parent_path() / text(".", path_.filename().string(), ".", ::getpid());
  std::error_code problem;
  fs::remove(unready, problem);
  File::create(unready).write_at(0, std::as_bytes(std::span(all)));
  fs::rename(unready, path_, problem);
  if (!problem) return;
  std::error_code ignored;
  fs::remove(unready, ignored);
  throw Error(
      {.kind = ErrorKind::resource, .where = path_.string(), .what = problem.message(), .fix = "check the folder"});
}

std::string Metrics::text_of(const char* phase) const {
  Exposition out(run_);
  out.metric("run_info", "gauge", "What is run; always 1.");
  out.value(1, about_);
  out.metric("run_phase", "gauge", "1 for the phase that the run is in.");
  for (const char* each : {"preparing", "loading", "running", "finished", "stopped", "failed"}) {
    out.value(std::string_view(each) == phase ? 1 : 0, {{"phase", each}});
  }
  out.metric("start_time_seconds", "gauge", "When the run began, in seconds since 1970.");
  out.value(start_time_);
  out.metric("written_time_seconds", "gauge", "When this file was written, in seconds since 1970.");
  out.value(now());
  out.metric("load_bytes_total", "counter", "Weights loaded before the first micro-batch.");
  out.value(static_cast<double>(state_.loaded_bytes));
  out.metric("load_bytes_expected", "gauge", "Of them, all there are to load.");
  out.value(static_cast<double>(state_.load_bytes));
  out.metric("tokens_total", "counter", "Tokens that went through all layers; through half of them, they count half.");
  out.value(state_.tokens);
  out.metric("tokens_expected", "gauge", "Tokens that this run computes.");
  out.value(state_.num_tokens);
  out.metric("tokens_per_second", "gauge", "Over the time between this and the last writing.");
  out.value(tokens_per_second_);
  out.metric("captured_bytes_total", "counter", "Captures that were handed to the writers of the file.");
  out.value(static_cast<double>(state_.captured_bytes));
  add_devices(out, state_.devices);
  if (gpus_) add_gpus(out, gpus_());
  return out.text();
}

}  // namespace layerprobe::cli
