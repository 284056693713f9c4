#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "capture/recorder.h"
#include "device/ops.h"
#include "model/weights.h"
#include "runtime/forward_pass.h"
#include "runtime/hub.h"
#include "runtime/link.h"
#include "runtime/prepared.h"
#include "runtime/schedule.h"
#include "runtime/session.h"
#include "runtime/stages.h"
#include "store/writer.h"

namespace layerprobe::runtime {

/// Tells the watch how far all devices are, one call at a time. Any thread.
class Telling {
 public:
  Telling(const Watch& watch, std::function<std::vector<DeviceState>()> devices)
      : watch_(watch), devices_(std::move(devices)) {}

  void expect(std::uint64_t load_bytes, std::uint64_t run_tokens);
  /// Either may throw what the watch throws.
  void loaded(std::uint64_t bytes);
  void ran(std::int64_t tokens);
  void stop_if_asked();
  /// Running begins, for all.
  void begin_running();
  /// All but the captured bytes.
  RunState state(std::size_t num_layers);

 private:
  void tell(Watch::Step::Kind kind);

  const Watch& watch_;
  const std::function<std::vector<DeviceState>()> devices_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::uint64_t loaded_ = 0, load_total_ = 0, ran_ = 0, run_total_ = 0;
};

/// What the devices of a run share; outlives them.
struct Shared {
  Prepared& prepared;
  store::Writer* writer;
  const Stages& stages;
  const std::vector<Task>& tasks;
  Telling& telling;
  std::function<void(std::int64_t row, const TopK&)> rank;  // any thread
  Hub hub = {};
  // Under the hub's lock.
  std::size_t next_wave = 0;    // that no replica has taken
  std::size_t num_loading = 0;  // devices that are not ready to run
  std::chrono::steady_clock::time_point all_loaded = {};
};

/// One device's part of a run: its stages, one micro-batch or wave after the other, and the weights that they need.
/// run() is its thread.
class DeviceRun {
 public:
  struct StageEnds {
    std::size_t stage;    // into Stages::stages
    Link* in = nullptr;   // nothing: it takes waves from the queue
    Link* out = nullptr;  // nothing: nothing is handed on
    bool has_ended = false;
  };
  struct Options {
    std::string modules;  // "embed_tokens, 0-15", for people
    std::size_t replica = 0;
    std::vector<StageEnds> stages;   // rising
    std::uint64_t states_bytes = 0;  // that states of a wave may take on the device
    std::int64_t max_tokens = 0;     // of a task
    std::size_t ring_bytes = 0;      // as Recorder has it
    DeviceRun* donor = nullptr;      // of another replica: has the same weights, and a proven way to this device
    bool brings_chosen = false;      // of the experts of a streamed layer, those that a micro-batch's tokens choose
  };
  DeviceRun(Shared& shared, device::Ops& ops, const store::Layout& layout, capture::Gathering& gathering,
            Options options);

  /// Of the checkpoint, what is loaded before the first micro-batch.
  std::uint64_t load_bytes() const;
  /// Loads, runs all that comes, and waits until it is done and written. A failure stops the hub.
  void run() noexcept;

  device::Ops& ops() { return ops_; }

  /// Any thread.
  DeviceState state() const;
  /// After run().
  RunReport::Device report(double run_seconds) const;
  std::uint64_t recorded_bytes() const { return recorder_.recorded_bytes(); }
  double load_seconds() const { return load_seconds_; }
  double waited_seconds() const { return recorder_.waited_seconds(); }
  /// Experts that were brought as tokens chose them, and those that could have been.
  RunReport::Experts chosen_experts() const { return chosen_experts_; }

 private:
  using Clock = std::chrono::steady_clock;
  /// A streamed module's weights, on their way or there.
  struct Streamed {
    std::size_t module = 0;
    ModuleWeights weights = {};
    std::unique_ptr<device::Loads> loads = {};  // ends before the weights
  };

  void work();
  void load_resident();
  void bring_resident();
  void wait_until_all_loaded();
  /// The stage to run next and the wave; nothing once all have ended.
  std::optional<std::pair<StageEnds*, std::size_t>> next();
  std::optional<std::size_t> next_wave_of(StageEnds& ends, bool& has_changed);
  void run_wave(StageEnds& ends, std::size_t wave);
  void run_task(StageEnds& ends, std::size_t module, const ModuleWeights& weights, std::size_t task, std::size_t at);

  bool is_streamed(std::size_t module) const;
  const ModuleWeights& weights_of(std::size_t module, std::size_t wave);
  template <typename Work>
  void named(std::size_t module, Work&& work);
  void start_loading(std::size_t module);
  model::Experts bring_experts(std::size_t module, std::span<const std::int64_t> chosen);
  std::optional<std::size_t> streamed_after(std::size_t module, std::size_t wave) const;

  /// Where the state of the wave's task `at` is to be put, when it is at `in` now.
  device::Tensor place_for(std::size_t at, std::int64_t tokens, const void* in) const;
  bool waits_on_host(std::size_t at) const { return !alone_ && at >= slots_.size(); }
  device::Tensor enter(std::size_t at, std::int64_t tokens);
  void leave(std::size_t at, const device::Tensor& state);
  /// What enters the module from outside: from the input, or from the file of a run that is continued.
  void feed(std::size_t module, const Task& task, const device::Tensor& out);

  template <typename Wait>
  void wait_for(const char* what, std::atomic<double>& seconds, Wait&& wait);

  Shared& shared_;
  device::Ops& ops_;
  Options options_;
  const bool alone_;  // no state waits while others pass
  capture::Recorder recorder_;
  ForwardPass forward_;
  model::WeightLoader loader_;
  std::unique_ptr<device::Stopwatch> busy_;
  std::vector<ModuleWeights> weights_;  // by module; of the resident ones
  std::vector<std::size_t> streamed_;   // modules, rising
  std::optional<Streamed> current_, coming_;
  bool is_loading_ = true;
  bool is_bringing_experts_ = false;
  RunReport::Experts chosen_experts_;
  bool has_loaded_ = false;   // under the hub's lock
  std::string weights_from_;  // the donor's name, where they came from there

  std::vector<device::Buffer> slots_;                   // states of a wave on the device
  std::vector<device::Buffer> rooms_;                   // and of its other tasks on the host
  std::vector<std::unique_ptr<device::Mark>> on_host_;  // of each room: the state is there
  std::array<std::unique_ptr<device::Moment>, 2> place_free_;
  std::vector<std::optional<device::Tensor>> states_;  // of the wave's tasks
  std::vector<std::byte> fed_;

  std::atomic<const char*> waits_for_ = "";
  std::atomic<double> weights_seconds_ = 0, upstream_seconds_ = 0, downstream_seconds_ = 0, load_seconds_ = 0;
};

}  // namespace layerprobe::runtime
