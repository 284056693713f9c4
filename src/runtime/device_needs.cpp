#include "runtime/device_needs.h"

#include <algorithm>
#include <future>
#include <limits>
#include <thread>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "device/backends.h"
#include "device/cpu/memory.h"
#include "model/tensors.h"
#include "store/reader.h"

namespace layerprobe::runtime {
namespace {

bool is_gpu(const std::string& name) { return name.starts_with("cuda"); }

/// A GPU that a map names and that is not there is best explained by opening it.
void expect_named_gpus(const std::string& device_map, const placement::Machine& machine) {
  const placement::DeviceMap map = placement::parse_device_map(device_map);
  std::vector<placement::Device> named = map.devices;
  for (const auto& [name, target] : map.modules) {
    if (target.kind == placement::Target::Kind::device) named.push_back(target.device);
  }
  for (const placement::Device device : named) {
    if (device.kind != placement::Device::Kind::cuda) continue;
    if (std::ranges::find(machine.gpus, device, &placement::Machine::Gpu::device) != machine.gpus.end()) continue;
    try {
      device::open_device(name_of(device));
    } catch (const Error& error) {
      throw error.within("--device-map");
    }
  }
}

}  // namespace

placement::Machine machine_of(const RunOptions& options, const std::string& gpus) {
  constexpr std::uint64_t kMostBytes = std::numeric_limits<std::int64_t>::max();  // where the system says nothing
  placement::Machine machine{.gpus = {}, .host_bytes = std::min(device::cpu::available_bytes(), kMostBytes)};
  if (!gpus.empty()) {
    machine.gpus = placement::parse_gpus(gpus);
    machine.host_bytes =
        placement::parse_max_memory(options.max_memory).host.value_or(machine.host_bytes);  // of another machine
    return machine;
  }
  for (const device::DeviceInfo& gpu : device::gpus()) {
    const std::optional<placement::Device> device = placement::find_device(gpu.name);
    if (gpu.is_supported && device) machine.gpus.push_back({*device, gpu.total_bytes});
  }
  expect_named_gpus(options.device_map, machine);
  return machine;
}

std::uint64_t output_bytes(const RunOptions& options, const Prepared& prepared) {
  if (prepared.output(options) == "none") return 0;
  store::Layout layout;
  layout.points = prepared.plan.points;
  layout.prompts = prepared.prompts;
  layout.rows = prepared.plan.rows;
  layout.num_experts = prepared.config.experts ? prepared.config.experts->num_experts : 0;
  layout.top_k = prepared.plan.top_k;
  return store::planned_bytes(layout);
}

plan::DevicePlan plan_devices(const RunOptions& options, const Prepared& prepared, const placement::Machine& machine) {
  const std::string output = prepared.output(options);
  return plan::plan_devices(prepared.config, prepared.checkpoint, prepared.plan, prepared.prompts,
                            {.device_map = options.device_map,
                             .max_memory = options.max_memory,
                             .num_replicas = options.num_replicas,
                             .machine = machine,
                             .num_cores = std::max(1u, std::thread::hardware_concurrency()),
                             .multiplies_fp8 = options.fp8_math == Fp8Math::w8a8,
                             .output_bytes = output_bytes(options, prepared),
                             .model_in_memory = is_in_memory(prepared.checkpoint.path()),
                             .output_in_memory = output != "none" && is_in_memory(output)});
}

Devices open_devices(const plan::DevicePlan& plan) {
  std::vector<std::string> names;
  for (const std::vector<std::string>& replica : plan.replicas)
    names.insert(names.end(), replica.begin(), replica.end());
  const auto num_virtual =
      static_cast<int>(std::ranges::count_if(names, [](const std::string& name) { return !is_gpu(name); }));
  const auto open = [&](const std::string& name) {
    device::DeviceOptions options;
    options.num_virtual_devices = num_virtual;
    try {
      return device::open_device(name, options);
    } catch (const Error& error) {
      throw error.within("--device-map");
    }
  };
  Devices devices;
  if (names.size() == 1) {
    devices.push_back(open(names.front()));
    return devices;
  }
  std::vector<std::future<std::unique_ptr<device::Ops>>> opening;  // a GPU takes some tenths of a second
  for (const std::string& name : names) {
    opening.push_back(std::async(is_gpu(name) ? std::launch::async : std::launch::deferred, open, name));
  }
  for (auto& each : opening) devices.push_back(each.get());
  for (const auto& device : devices) {
    if (device->code_path() == devices.front()->code_path()) continue;
    throw Error({.kind = ErrorKind::usage,
                 .where = "--device-map",
                 .what = text(devices.front()->name(), " (", devices.front()->code_path(), ") and ", device->name(),
                              " (", device->code_path(), ") do not compute the same bits"),
                 .fix = "run on devices of one kind, as in --device-map cuda:0"});
  }
  return devices;
}

void expect_memory(const Devices& devices, const plan::DevicePlan& plan) {
  for (std::size_t i = 0; i < devices.size(); ++i) {
    expect_memory(*devices[i], plan.devices[i % plan.devices.size()], plan.tokens_per_batch);
  }
}

void expect_memory(device::Ops& device, const plan::DevicePlan::DeviceRow& row, std::int64_t tokens_per_batch) {
  const std::uint64_t weights = row.weights_bytes + row.stream_bytes;
  const std::uint64_t others = row.reserve.total() - row.reserve.context_bytes;
  const std::uint64_t free = device.free_bytes();
  if (weights + others <= free) return;
  throw Error({.kind = ErrorKind::resource,
               .where = device.name(),
               .what = text("needs ", bytes_text(weights), " for weights and ", bytes_text(others),
                            " for activations and captures of ", tokens_per_batch, " tokens; ", bytes_text(free),
                            " may be taken"),
               .fix = text("other programs hold some of it: give --max-memory ", free / 1'000'000,
                           "MB or less, so that what does not fit streams, or use --tokens-per-batch ",
                           std::max<std::int64_t>(tokens_per_batch / 2, 1), " or fewer")});
}

std::string choose_matmuls(const Devices& devices, const model::ModelConfig& config, const plan::Plan& plan,
                           bool multiplies_fp8, const std::filesystem::path& continued) {
  const auto tell = [&](const std::string& choices) {
    if (choices.empty()) return;
    for (std::size_t i = 1; i < devices.size(); ++i) devices[i]->use_matmul_choices(choices);
  };
  if (std::filesystem::exists(continued)) {
    const store::Reader reader(continued);
    const auto found = reader.attributes().find(kMatMulChoices);
    const auto* choices = found == reader.attributes().end() ? nullptr : std::get_if<std::string>(&found->second);
    if (choices != nullptr && !choices->empty()) {
      devices.front()->use_matmul_choices(*choices);
      tell(*choices);
      return *choices;
    }
  }
  std::vector<device::Ops::MatMulShape> shapes;
  if (!plan.layers.empty()) {
    const std::int64_t hidden = config.hidden_size;
    shapes = {{hidden, config.qkv_size(), plan.dtype, config.qkv_bias},
              {config.attention_size(), hidden, plan.dtype, config.o_bias}};
    if (config.latent) {
      const model::LatentAttention& latent = *config.latent;
      const std::int64_t of_head = latent.qk_nope_head_dim + latent.v_head_dim;
      if (latent.q_lora_rank > 0) shapes.push_back({latent.q_lora_rank, config.query_size(), plan.dtype, false});
      shapes.push_back({latent.kv_lora_rank, config.num_attention_heads * of_head, plan.dtype, false});
    }
    const auto add_mlp = [&](std::int64_t width, bool bias) {
      shapes.push_back({hidden, 2 * width, plan.dtype, bias});
      shapes.push_back({width, hidden, plan.dtype, bias});
    };
    if (config.has_dense_layers()) add_mlp(config.intermediate_size, config.mlp_bias);
    if (config.experts) {
      shapes.push_back({hidden, config.experts->num_experts, config.experts->router.dtype(plan.dtype), false});
      add_mlp(config.experts->moe_intermediate_size, false);
      if (config.experts->shared_intermediate_size > 0) add_mlp(config.experts->shared_intermediate_size, false);
    }
  }
  if (plan.runs_lm_head) shapes.push_back({config.hidden_size, config.vocab_size, plan.dtype, false});
  if (multiplies_fp8) {  // some are stored as FP8 and some are not
    for (std::size_t i = 0, count = shapes.size(); i < count; ++i) {
      const bool can_be = shapes[i].dtype == plan.dtype && shapes[i].in_features % 16 == 0 &&
                          shapes[i].out_features % 16 == 0 && shapes[i].out_features != config.vocab_size;
      if (!can_be) continue;
      shapes.push_back(shapes[i]);
      shapes.back().multiplies_fp8 = true;
    }
  }
  const std::string choices = devices.front()->matmul_choices(shapes);
  tell(choices);
  return choices;
}

}  // namespace layerprobe::runtime
