#include "check/check.h"

#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/file.h"
#include "base/text.h"
#include "check/devices.h"
#include "check/disk.h"
#include "check/gpus.h"
#include "check/host.h"
#include "check/model.h"
#include "check/versions.h"
#include "device/nvml.h"
#include "placement/budgets.h"
#include "runtime/device_needs.h"
#include "runtime/prepared.h"
#include "store/writer.h"

namespace layerprobe::check {
namespace {

namespace fs = std::filesystem;
using runtime::Devices;

constexpr std::size_t kMiB = std::size_t{1} << 20;

Effort effort_of(int level, bool on_gpus) {
  if (!on_gpus) {
    return {.num_tokens = 64,
            .features = level == 1 ? 256 : 1024,
            .product_seconds = level == 1 ? 0 : 0.3,
            .copy_bytes = (level == 1 ? 4 : 32) * kMiB,
            .num_copies = 4,
            .proof_bytes = (level == 1 ? 1 : 4) * kMiB};
  }
  if (level == 1) return {};
  return {.num_tokens = 8192,
          .features = 8192,
          .product_seconds = 3,
          .copy_bytes = 256 * kMiB,
          .num_copies = 16,
          .proof_bytes = 16 * kMiB};
}

bool is_gpu(const std::string& name) { return name.starts_with("cuda"); }

/// Everything that one check knows, in the order in which it is found out.
class Checker {
 public:
  Checker(const Options& options, const runtime::Watch& watch)
      : options_(options),
        run_(options.run),
        watch_(watch),
        map_(placement::parse_device_map(run_.device_map)),
        max_memory_(placement::parse_max_memory(run_.max_memory)) {}

  Report check() {
    const auto start = std::chrono::steady_clock::now();
    find_gpus();
    choose_devices();
    judge_gpus();
    add(items_, "versions", [&] { return judge_versions(versions_, num_gpus()); });
    if (!run_.model.empty()) look_at_model();
    add(items_, "host", [&] { return judge_host(read_host(), host_needs()); });
    open_devices();
    try_devices();
    if (writes_) look_at_output();
    if (model_ && model_->checkpoint) look_at_checkpoint_files();
    return {.level = options_.level,
            .items = std::move(items_),
            .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
  }

 private:
  /// Before this program takes any of their memory.
  void find_gpus() {
    infos_ = device::gpus();
    versions_.hdf5 = store::hdf5_version();
    if (!infos_.empty()) versions_.cuda = device::cuda_libraries();
    try {
      nvml_.emplace(device::open_nvml());
      versions_.driver = nvml_->driver_version();
      states_ = nvml_->gpus();
    } catch (const Error& error) {
      nvml_problem_ = error;
    }
  }

  /// Those that a run would use.
  void choose_devices() {
    try {
      machine_ = runtime::machine_of(run_);
      for (const placement::DeviceBudget& budget : placement::device_budgets(map_, max_memory_, *machine_)) {
        names_.push_back(name_of(budget.device));
      }
    } catch (const Error& error) {
      machine_.reset();
      names_.clear();
      items_.push_back(failed("devices", error));
    }
  }

  void judge_gpus() {
    const bool asks_for_none = map_.strategy == placement::DeviceMap::Strategy::by_name || !map_.devices.empty();
    Item item{.name = "GPUs", .status = Status::skip, .measured = "none is asked for (--device-map)"};
    if (!machine_) item.measured = "the devices could not be chosen";
    if (num_gpus() > 0) {
      for (Gpu& gpu : join(infos_, states_)) {
        if (std::ranges::count(names_, gpu.name()) > 0) gpus_.push_back(std::move(gpu));
      }
      item.status = Status::pass;
      item.measured = text(gpus_.size(), " of ", std::max(infos_.size(), states_.size()), " in the machine");
    } else if (!asks_for_none) {
      item = no_gpu(states_.size());
    }
    items_.push_back(std::move(item));
    if (num_gpus() == 0 && asks_for_none) return;
    if (nvml_problem_ && num_gpus() > 0) {
      items_.push_back(failed("NVML", *nvml_problem_));
      items_.back().status = Status::warn;  // what it would tell stays unknown: a run does not need it
    }
    add(items_, "GPUs", [&] { return judge_idle(gpus_, states_); });
  }

  static Item no_gpu(std::size_t in_machine) {
    Item item{.name = "GPUs", .status = Status::fail, .measured = "none"};
    try {
      device::open_device("cuda:0");
    } catch (const Error& error) {
      item = failed("GPUs", error, "one at least, or --device-map cpu");
      item.measured = text("none: ", error.parts().what);
    }
    if (in_machine > 0) item.measured += text("; NVML shows ", in_machine);
    return item;
  }

  std::size_t num_gpus() const { return static_cast<std::size_t>(std::ranges::count_if(names_, is_gpu)); }

  void look_at_model() {
    const bool reads_text = !run_.input.prompts.empty() || !run_.input.prompts_file.empty();
    model_.emplace(check_model(run_.model, reads_text));
    items_.insert(items_.end(), model_->items.begin(), model_->items.end());
    if (!model_->is_understood || !machine_) {
      items_.push_back({.name = "plan", .status = Status::skip, .measured = "what comes before it failed"});
      return;
    }
    add(items_, "plan", [&] {
      runtime::Watch quiet;  // its warnings are items
      quiet.should_stop = watch_.should_stop;
      const runtime::Prepared prepared(run_, quiet);
      plan_ = runtime::plan_devices(run_, prepared, *machine_);
      output_ = prepared.output(run_);
      writes_ = output_ != "none";
      if (writes_) output_bytes_ = runtime::output_bytes(run_, prepared);
      return judge_plan();
    });
  }

  Item judge_plan() const {
    const plan::DevicePlan& plan = *plan_;
    Item item{.name = "plan"};
    std::vector<std::string> devices;
    for (const plan::DevicePlan::DeviceRow& row : plan.devices) {
      devices.push_back(
          text(row.name, " ", bytes_text(row.limit_bytes - row.free_bytes), " of ", bytes_text(row.limit_bytes)));
    }
    constexpr std::size_t kShown = 8;
    item.measured = devices.size() <= kShown ? layerprobe::join(devices, ", ")
                                             : text(devices.front(), ", ... ", devices.size(), " devices");
    if (plan.replicas.size() > 1) item.measured += text("; ", plan.replicas.size(), " replicas");
    if (plan.num_waves > 0) {
      item.measured += text("; streams ", bytes_text(plan.streamed_disk_bytes + plan.streamed_host_bytes),
                            " in each of ", plan.num_waves, plan.num_waves == 1 ? " wave" : " waves");
    }
    return item;
  }

  HostNeeds host_needs() const {
    HostNeeds needs{.num_gpus = num_gpus(), .files = 0, .pinned_bytes = 0};
    if (model_ && model_->checkpoint) needs.files = model_->checkpoint->files().size();
    constexpr std::uint64_t kRingOfGpu = std::uint64_t{1} << 30;  // Ops::capture_resources, before any is open
    needs.pinned_bytes = needs.num_gpus * (run_.pinned_memory_bytes > 0 ? run_.pinned_memory_bytes : kRingOfGpu);
    return needs;
  }

  void open_devices() {
    device::DeviceOptions how;
    how.num_virtual_devices = static_cast<int>(names_.size() - num_gpus());
    std::vector<std::future<std::unique_ptr<device::Ops>>> opening;  // a GPU takes some tenths of a second
    for (const std::string& name : names_) {
      opening.push_back(std::async(is_gpu(name) ? std::launch::async : std::launch::deferred,
                                   [&how, &name] { return device::open_device(name, how); }));
    }
    for (std::size_t i = 0; i < opening.size(); ++i) {
      try {
        devices_.push_back(opening[i].get());
      } catch (const Error& error) {
        items_.push_back(failed(text(names_[i], " start"), error));
      }
    }
    for (const auto& device : devices_) {
      if (device->code_path() == devices_.front()->code_path()) continue;
      items_.push_back({.name = "devices",
                        .status = Status::fail,
                        .measured = text(devices_.front()->name(), " (", devices_.front()->code_path(), ") and ",
                                         device->name(), " (", device->code_path(), ") do not compute the same bits"),
                        .expected = "devices of one kind",
                        .advice = "run on GPUs of one model: --device-map cuda:0,..."});
      break;
    }
    if (!plan_) return;
    std::size_t at = 0;
    for (const std::vector<std::string>& replica : plan_->replicas) {
      for (const std::string& name : replica) {
        const plan::DevicePlan::DeviceRow& row = plan_->devices[at++ % plan_->devices.size()];
        const auto device = std::ranges::find_if(devices_, [&](const auto& each) { return is_named(*each, name); });
        if (device == devices_.end()) continue;
        try {
          runtime::expect_memory(**device, row, plan_->tokens_per_batch);
        } catch (const Error& error) {
          items_.push_back(failed(text(name, " memory for the plan"), error));
        }
      }
    }
  }

  static bool is_named(const device::Ops& device, const std::string& name) {
    return device.name() == name || (device.name() == "cpu" && name == "cpu:0");
  }

  void try_devices() {
    if (devices_.empty()) return;
    Bench all, gpus;
    for (const auto& device : devices_) {
      all.devices.push_back(device.get());
      if (is_gpu(device->name())) gpus.devices.push_back(device.get());
    }
    const Effort effort = effort_of(options_.level, !gpus.devices.empty());
    if (!gpus.devices.empty()) {
      gpus.meanwhile = [&] { look_at_pcie(/*is_busy=*/true); };
      add(items_, "copies", [&] { return judge_copies(try_copies(gpus, effort), gpus_); });
    }
    all.meanwhile = [&] { look_at_clocks(/*is_busy=*/true); };
    if (effort.product_seconds == 0) look_at_clocks(/*is_busy=*/false);
    add(items_, "products", [&] { return judge_products(try_products(all, effort), gpus_); });
    if (all.devices.size() > 1) {
      add(items_, "pairs", [&] { return judge_pairs(try_pairs(all, effort), gpus_); });
    }
    if (gpus.devices.size() < 2) return;
    if (options_.level < 2) {
      items_.push_back({.name = "NCCL all-reduce", .status = Status::skip, .measured = "from --level 2 on"});
      return;
    }
    add(items_, "NCCL all-reduce", [&] {
      std::vector<std::string> names;
      for (const device::Ops* gpu : gpus.devices) names.push_back(gpu->name());
      return judge_all_reduce(device::all_reduce(names, 256 * kMiB), names.size());
    });
  }

  /// What NVML says now of the GPUs that are used.
  template <typename Judge>
  void ask_nvml(const Judge& judge) {
    if (!nvml_) return;
    std::vector<device::DeviceInfo> infos;
    for (const Gpu& gpu : gpus_) infos.push_back(gpu.info);
    for (const Gpu& gpu : join(infos, nvml_->gpus())) {
      if (gpu.state) judge(gpu);
    }
  }
  void look_at_pcie(bool is_busy) {
    ask_nvml([&](const Gpu& gpu) {
      if (gpu.state->pcie) items_.push_back(judge_pcie(gpu.name(), *gpu.state->pcie, is_busy));
    });
  }
  void look_at_clocks(bool is_busy) {
    ask_nvml([&](const Gpu& gpu) { items_.push_back(judge_clocks(gpu.name(), *gpu.state, is_busy)); });
  }

  void look_at_output() {
    add(items_, "output", [&] {
      const fs::path folder = fs::absolute(output_.empty() ? "x" : output_).parent_path();
      return judge_writing(try_writing(folder, options_.level == 1 ? 0 : 2048 * kMiB), output_bytes_);
    });
  }

  void look_at_checkpoint_files() {
    if (options_.level == 1) return;
    const weights::Checkpoint& checkpoint = *model_->checkpoint;
    add(items_, "checkpoint rate",
        [&] { return judge_reading(try_reading(checkpoint.files(), std::uint64_t{4096} * kMiB), model_->bytes()); });
    if (options_.level < 3) return;
    const auto start = std::chrono::steady_clock::now();
    add(items_, "every byte", [&] {
      return check_bytes(checkpoint, [&](std::uint64_t done, std::uint64_t all) {
        watch_.stop_if_asked();
        watch_.step({.kind = runtime::Watch::Step::Kind::reading,
                     .done = done,
                     .total = all,
                     .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
      });
    });
  }

  const Options& options_;
  const runtime::RunOptions& run_;
  const runtime::Watch& watch_;
  const placement::DeviceMap map_;
  const placement::MaxMemory max_memory_;
  Items items_;
  Versions versions_;
  std::optional<device::Nvml> nvml_;
  std::optional<Error> nvml_problem_;
  std::vector<device::DeviceInfo> infos_;
  std::vector<device::GpuState> states_;
  std::vector<Gpu> gpus_;  // that a run would use
  std::optional<placement::Machine> machine_;
  std::vector<std::string> names_;  // of the devices that a run would use
  std::optional<Model> model_;
  std::optional<plan::DevicePlan> plan_;
  std::string output_ = {};
  bool writes_ = true;
  std::optional<std::uint64_t> output_bytes_;
  Devices devices_;
};

}  // namespace

Report check(const Options& options, const runtime::Watch& watch) { return Checker(options, watch).check(); }

}  // namespace layerprobe::check
