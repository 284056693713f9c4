#pragma once

#include <filesystem>

#include "device/ops.h"
#include "model/config.h"
#include "plan/plan.h"

namespace layerprobe::runtime {

/// Throws Error(resource), with what would help, unless the device has the memory for the run's weights and for the
/// activations of a batch of `batch_tokens`. To be asked before anything is loaded.
void expect_memory(device::Ops& ops, const model::ModelConfig& config, const plan::Plan& plan,
                   std::int64_t batch_tokens);

/// How the run's weights are multiplied (Ops::matmul_choices): as `continued`, a file of the same run, says, or as the
/// device chooses where there is no such file.
std::string choose_matmuls(device::Ops& ops, const model::ModelConfig& config, const plan::Plan& plan,
                           const std::filesystem::path& continued);

/// The attribute that keeps it.
inline constexpr const char* kMatMulChoices = "matmul_choices";

}  // namespace layerprobe::runtime
