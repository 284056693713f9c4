#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device/ops.h"
#include "model/config.h"
#include "placement/budgets.h"
#include "plan/device_plan.h"
#include "plan/plan.h"
#include "runtime/prepared.h"
#include "runtime/session.h"

namespace layerprobe::runtime {

/// This machine's GPUs that can be used, and its memory; with `gpus` (as --gpus has them) a machine of those.
placement::Machine machine_of(const RunOptions& options, const std::string& gpus = {});

/// Where the run's modules go: what `plan` shows and `run` does. The plan's tokens_per_batch may be 0.
plan::DevicePlan plan_devices(const RunOptions& options, const Prepared& prepared, const placement::Machine& machine);

/// Of the file that the run writes; 0 for --output none.
std::uint64_t output_bytes(const RunOptions& options, const Prepared& prepared);

/// The devices of all replicas, one replica after the other. Throws Error(usage) when they would not compute the same
/// bits: GPUs of different models.
using Devices = std::vector<std::unique_ptr<device::Ops>>;
Devices open_devices(const plan::DevicePlan& plan);

/// Throws Error(resource), with what would help, unless every device has the memory that it was planned to take. To be
/// asked before anything is loaded.
void expect_memory(const Devices& devices, const plan::DevicePlan& plan);
/// The same of one of them.
void expect_memory(device::Ops& device, const plan::DevicePlan::DeviceRow& row, std::int64_t tokens_per_batch);

/// How the run's weights are multiplied on all devices (Ops::matmul_choices): as `continued`, a file of the same run,
/// says, or as the first device chooses where there is no such file. `multiplies_fp8`: Ops::multiply_fp8 was called.
std::string choose_matmuls(const Devices& devices, const model::ModelConfig& config, const plan::Plan& plan,
                           bool multiplies_fp8, const std::filesystem::path& continued);

/// The attribute that keeps it.
inline constexpr const char* kMatMulChoices = "matmul_choices";

}  // namespace layerprobe::runtime
