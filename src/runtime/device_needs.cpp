#include "runtime/device_needs.h"

#include <algorithm>
#include <limits>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "device/backends.h"
#include "model/decoder_layer.h"
#include "model/tensors.h"
#include "placement/budgets.h"
#include "plan/footprints.h"
#include "store/reader.h"

namespace layerprobe::runtime {
namespace {

/// Of all that is on the device at once.
std::uint64_t weights_bytes(const device::Ops& ops, const model::ModelConfig& config,
                            const weights::Checkpoint& checkpoint, const plan::Plan& plan) {
  const bool keeps_fp8 = ops.keeps_fp8();
  std::uint64_t layers = 0, largest_layer = 0;
  for (const std::int64_t layer : plan.layers) {
    std::uint64_t bytes = 0;
    for (const model::ExpectedTensor& tensor : model::layer_tensors(config, layer)) {
      bytes += model::loaded_bytes(tensor, checkpoint, plan.dtype, keeps_fp8);
    }
    layers += bytes;
    largest_layer = std::max(largest_layer, bytes);
  }
  std::uint64_t total = plan.test_type == plan::TestType::single ? largest_layer : layers;
  if (plan.runs_embedding) total += model::bytes_of(model::embedding_tensor(config), plan.dtype);
  if (plan.runs_norm) total += model::bytes_of(model::norm_tensor(config), plan.dtype);
  if (plan.runs_lm_head) total += model::bytes_of(model::lm_head_tensor(config), plan.dtype);
  return total;
}

/// The only device that the map names; nothing where it is not one.
std::optional<placement::Device> named_device(const placement::DeviceMap& map) {
  std::optional<placement::Device> device;
  for (const auto& [name, target] : map.modules) {
    const bool is_host = target.kind == placement::Target::Kind::host;
    if (target.kind == placement::Target::Kind::disk) return std::nullopt;
    const placement::Device here = is_host ? placement::Device{placement::Device::Kind::cpu, 0} : target.device;
    if (device && *device != here) return std::nullopt;
    device = here;
  }
  return device;
}

placement::Machine usable_gpus() {
  placement::Machine machine{.gpus = {}, .host_bytes = std::numeric_limits<std::int64_t>::max()};
  for (const device::DeviceInfo& gpu : device::gpus()) {
    if (gpu.is_supported) machine.gpus.push_back({*placement::find_device(gpu.name), gpu.total_bytes});
  }
  return machine;
}

}  // namespace

RunDevice open_device(const std::string& device_map, const std::string& max_memory) {
  using Strategy = placement::DeviceMap::Strategy;
  const placement::DeviceMap map = placement::parse_device_map(device_map);
  const placement::MaxMemory limits = placement::parse_max_memory(max_memory);
  const auto opened = [](placement::Device device, std::uint64_t limit) {
    try {
      return RunDevice{.ops = device::open_device(name_of(device)), .limit_bytes = limit};
    } catch (const Error& error) {
      throw error.within("--device-map");
    }
  };
  if (const auto named = named_device(map)) return opened(*named, std::numeric_limits<std::uint64_t>::max());
  if (map.strategy != Strategy::by_name) {
    const std::vector<placement::DeviceBudget> budgets = placement::device_budgets(map, limits, usable_gpus());
    const bool takes_first = map.strategy == Strategy::even && map.devices.empty();
    if (takes_first || budgets.size() == 1) return opened(budgets.front().device, budgets.front().limit);
  }
  throw Error({.kind = ErrorKind::usage,
               .where = "--device-map",
               .what = text("\"", device_map.substr(0, 200),
                            "\" is for several devices or the disk; a run takes one device for now"),
               .fix = "name one, as in --device-map cuda:0; layerprobe plan shows what several would take"});
}

void expect_memory(const RunDevice& device, const model::ModelConfig& config, const weights::Checkpoint& checkpoint,
                   const plan::Plan& plan, std::int64_t batch_tokens) {
  const std::uint64_t weights = weights_bytes(*device.ops, config, checkpoint, plan);
  const std::uint64_t activations = model::Activations::bytes(config, plan.dtype, batch_tokens);
  const std::uint64_t free = std::min(device.ops->free_bytes(), device.limit_bytes);
  if (weights <= free && activations <= free - weights) return;
  const bool batch_is_large = weights < free;
  const std::int64_t fitting =
      batch_is_large ? static_cast<std::int64_t>((free - weights) / (activations / batch_tokens + 1)) : 0;
  throw Error({.kind = ErrorKind::resource,
               .where = device.ops->name(),
               .what = text("needs ", bytes_text(weights), " for weights and ", bytes_text(activations),
                            " for the activations of ", batch_tokens, " tokens; ", bytes_text(free), " may be taken"),
               .fix = batch_is_large
                          ? text("use --tokens-per-batch ", std::max<std::int64_t>(fitting, 1),
                                 " or fewer; a prompt of more tokens goes by itself and has to be shorter")
                          : "run fewer layers (--test-type multi --layers, or single), or take another device: "
                            "--device-map"});
}

std::int64_t good_batch_tokens(const RunDevice& device, const model::ModelConfig& config,
                               const weights::Checkpoint& checkpoint, const plan::Plan& plan) {
  const std::int64_t least = device.ops->good_batch_tokens();
  const std::uint64_t free = std::min(device.ops->free_bytes(), device.limit_bytes),
                      weights = weights_bytes(*device.ops, config, checkpoint, plan);
  std::int64_t tokens = least * plan::batch_factor(config);
  const auto fits = [&] {
    return weights < free && model::Activations::bytes(config, plan.dtype, tokens) <= free - weights;
  };
  while (tokens / 2 >= least && !fits()) tokens /= 2;
  return tokens;
}

std::string choose_matmuls(device::Ops& ops, const model::ModelConfig& config, const plan::Plan& plan,
                           const std::filesystem::path& continued) {
  if (std::filesystem::exists(continued)) {
    const store::Reader reader(continued);
    const auto found = reader.attributes().find(kMatMulChoices);
    const auto* choices = found == reader.attributes().end() ? nullptr : std::get_if<std::string>(&found->second);
    if (choices != nullptr && !choices->empty()) {
      ops.use_matmul_choices(*choices);
      return *choices;
    }
  }
  std::vector<device::Ops::MatMulShape> shapes;
  if (!plan.layers.empty()) {
    const std::int64_t hidden = config.hidden_size, query = config.query_size();
    shapes = {{hidden, query + 2 * config.key_value_size(), plan.dtype, config.qkv_bias},
              {query, hidden, plan.dtype, config.o_bias}};
    const auto add_mlp = [&](std::int64_t width, bool bias) {
      shapes.push_back({hidden, 2 * width, plan.dtype, bias});
      shapes.push_back({width, hidden, plan.dtype, bias});
    };
    if (config.has_dense_layers()) add_mlp(config.intermediate_size, config.mlp_bias);
    if (config.experts) {
      shapes.push_back({hidden, config.experts->num_experts, config.experts->router.dtype(plan.dtype), false});
      add_mlp(config.experts->moe_intermediate_size, false);
    }
  }
  if (plan.runs_lm_head) shapes.push_back({config.hidden_size, config.vocab_size, plan.dtype, false});
  return ops.matmul_choices(shapes);
}

}  // namespace layerprobe::runtime
