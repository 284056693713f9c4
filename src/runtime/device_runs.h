#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "capture/recorder.h"
#include "plan/device_plan.h"
#include "runtime/device_needs.h"
#include "runtime/device_run.h"
#include "runtime/links.h"
#include "runtime/prepared.h"
#include "runtime/schedule.h"
#include "runtime/session.h"
#include "runtime/stages.h"
#include "store/writer.h"

namespace layerprobe::runtime {

/// All devices of a run at work: every replica's, each in a thread of its own.
class DeviceRuns {
 public:
  /// All outlive this. `writer` is nothing where nothing is written.
  DeviceRuns(Prepared& prepared, const Devices& devices, const plan::DevicePlan& placed, const store::Layout& layout,
             store::Writer* writer, const RunOptions& options, const Watch& watch);

  /// Everything from the first weight read to the last value written, and what the report says of it. Throws the first
  /// failure of a device.
  void run(RunReport& report);
  /// Of all kept rows, those of an earlier run too.
  void write_top_k_texts();

 private:
  std::size_t state_bytes() const;
  std::size_t most_tasks_of_wave() const;
  void run_tasks(RunReport& report);
  device::Ops& device(std::size_t replica, std::size_t index) {
    return *devices_[replica * placed_.devices.size() + index];
  }
  void make_replica(std::size_t replica, RunReport& report);
  bool brings_chosen_experts() const;
  std::uint64_t states_bytes(const plan::DevicePlan::DeviceRow& row) const;
  std::vector<DeviceState> device_states() const;
  RunState state();
  void rank(std::int64_t row, const TopK& top);

  Prepared& prepared_;
  const Devices& devices_;
  const plan::DevicePlan& placed_;
  const store::Layout& layout_;
  store::Writer* const writer_;
  const RunOptions& options_;
  const Watch& watch_;
  const std::vector<Task> tasks_;
  const Stages stages_;
  capture::Gathering gathering_;
  Telling telling_;
  Shared shared_;
  Links links_;
  std::vector<std::unique_ptr<DeviceRun>> runs_;
  std::mutex rank_mutex_;
  std::vector<RunReport::Ranked> ranked_;
};

}  // namespace layerprobe::runtime
