#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "device/ops.h"
#include "model/config.h"
#include "plan/plan.h"
#include "weights/checkpoint.h"

namespace layerprobe::runtime {

/// A run's device, and how much of it the run may take.
struct RunDevice {
  std::unique_ptr<device::Ops> ops;
  std::uint64_t limit_bytes = 0;
};

/// Opens the one device that the options resolve to; `auto` is the first GPU that can be used, where there is one.
/// Throws Error(usage) where they resolve to several.
RunDevice open_device(const std::string& device_map, const std::string& max_memory);

/// Throws Error(resource), with what would help, unless the device, within its limit, has the memory for the run's
/// weights and for the activations of a batch of `batch_tokens`. To be asked before anything is loaded.
void expect_memory(const RunDevice& device, const model::ModelConfig& config, const weights::Checkpoint& checkpoint,
                   const plan::Plan& plan, std::int64_t batch_tokens);

/// Tokens of a batch where the user gives no number: what keeps the device at its rate; with experts, whose batches are
/// large, as much of it as there is memory for.
std::int64_t good_batch_tokens(const RunDevice& device, const model::ModelConfig& config,
                               const weights::Checkpoint& checkpoint, const plan::Plan& plan);

/// How the run's weights are multiplied (Ops::matmul_choices): as `continued`, a file of the same run, says, or as the
/// device chooses where there is no such file.
std::string choose_matmuls(device::Ops& ops, const model::ModelConfig& config, const plan::Plan& plan,
                           const std::filesystem::path& continued);

/// The attribute that keeps it.
inline constexpr const char* kMatMulChoices = "matmul_choices";

}  // namespace layerprobe::runtime
