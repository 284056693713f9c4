#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>

#include "base/bytes.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/common_options.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "plan/device_plan.h"
#include "runtime/device_needs.h"
#include "runtime/prepared.h"
#include "store/writer.h"

namespace layerprobe::cli {
namespace {

constexpr const char* kDefaultTokens = "64x1024";

struct PlanArguments {
  CommonArguments common;
  std::string gpus;
};

/// All that is printed.
struct Answer {
  std::string output;  // a path, or "none"
  std::uint64_t output_bytes = 0;
  std::optional<std::uint64_t> output_free_bytes;
  plan::DevicePlan plan;
  std::string flags;  // to paste behind `layerprobe run`

  bool has_space() const { return !output_free_bytes || output_bytes <= *output_free_bytes; }
};

/// "80GiB"; bytes where it is no whole number of a larger unit.
std::string exact_size(std::uint64_t bytes) {
  constexpr std::pair<const char*, std::uint64_t> kUnits[] = {
      {"GiB", std::uint64_t{1} << 30}, {"GB", 1'000'000'000}, {"MB", 1'000'000}};
  for (const auto& [unit, factor] : kUnits) {
    if (bytes % factor == 0) return text(bytes / factor, unit);
  }
  return text(bytes, "B");
}

/// --max-memory that holds `run` to the GPUs that were planned for.
std::string max_memory_of(const placement::Machine& machine) {
  std::vector<std::string> sizes;
  for (const placement::Machine::Gpu& gpu : machine.gpus) sizes.push_back(exact_size(gpu.bytes));
  const bool all_alike = std::ranges::count(sizes, sizes.front()) == static_cast<std::ptrdiff_t>(sizes.size());
  return all_alike ? sizes.front() : join(sizes, ",");
}

std::string flags_of(const PlanArguments& arguments, const placement::Machine& machine, const plan::DevicePlan& plan) {
  const runtime::RunOptions& options = arguments.common.run;
  const auto shown = [](const std::string& word) {
    return word.find_first_of("{\" ") == std::string::npos ? word : text("'", word, "'");
  };
  std::string flags = text("--device-map ", shown(options.device_map));
  std::string max_memory = options.max_memory;
  if (max_memory.empty() && !arguments.gpus.empty()) max_memory = max_memory_of(machine);
  if (!max_memory.empty()) flags += text(" --max-memory ", shown(max_memory));
  if (options.num_replicas > 0) flags += text(" --replicas ", options.num_replicas);
  if (options.transport != runtime::Transport::automatic) flags += text(" --transport ", arguments.common.transport);
  return text(flags, " --tokens-per-batch ", plan.tokens_per_batch);
}

Json json_of(const plan::Reserve& reserve) {
  Json out;
  out.set("context_bytes", reserve.context_bytes);
  out.set("workspace_bytes", reserve.workspace_bytes);
  out.set("activations_bytes", reserve.activations_bytes);
  out.set("rings_bytes", reserve.rings_bytes);
  out.set("states_bytes", reserve.states_bytes);
  return out;
}

Json json_of(const plan::DevicePlan::DeviceRow& row) {
  Json out;
  out.set("name", row.name);
  out.set("limit_bytes", row.limit_bytes);
  out.set("weights_limit_bytes", row.weights_limit_bytes);
  out.set("weights_budget_bytes", row.weights_budget_bytes);
  out.set("weights_bytes", row.weights_bytes);
  out.set("stream_bytes", row.stream_bytes);
  out.set("reserve", json_of(row.reserve));
  out.set("free_bytes", row.free_bytes);
  out.set("modules", row.modules);
  out.set("streamed", row.streamed);
  out.set("compute_seconds", row.compute_seconds);
  return out;
}

template <typename Values, typename ToJson>
Json array_of(const Values& values, ToJson to_json) {
  Json::Array items;
  for (const auto& value : values) items.push_back(to_json(value));
  return items;
}

Json json_of(const Answer& answer, const runtime::Prepared& prepared) {
  const plan::DevicePlan& plan = answer.plan;
  Json out;
  out.set("test_type", plan::name_of(prepared.plan.test_type));
  out.set("dtype", name_of(prepared.plan.dtype));
  out.set("num_prompts", prepared.prompts.num_prompts());
  out.set("num_tokens", prepared.prompts.num_tokens());
  out.set("shard", shard_json(prepared.part));
  out.set("tokens_per_batch", plan.tokens_per_batch);
  out.set("num_micro_batches", plan.num_micro_batches);
  out.set("devices", array_of(plan.devices, [](const auto& row) { return json_of(row); }));
  const auto names = [](const std::vector<std::string>& each) {
    return array_of(each, [](const auto& n) { return Json(n); });
  };
  out.set("replicas", array_of(plan.replicas, names));
  Json::Object placed;
  for (std::size_t i = 0; i < plan.modules.size(); ++i) {
    Json where;
    where.set("device", plan.devices[plan.placed[i].device].name);
    where.set("home", placement::name_of(plan.placed[i].home));
    placed.emplace_back(plan.modules[i], where);
  }
  out.set("placement", placed);
  out.set("cuts", names(plan.cuts));
  out.set("num_waves", plan.num_waves);
  out.set("host_limit_bytes", plan.host_limit_bytes);
  out.set("streamed_host_bytes", plan.streamed_host_bytes);
  out.set("streamed_disk_bytes", plan.streamed_disk_bytes);
  out.set("load_bytes", plan.load_bytes);
  out.set("load_seconds", plan.load_seconds);
  out.set("run_seconds", plan.run_seconds);
  out.set("tokens_per_second", plan.tokens_per_second);
  out.set("binds", plan.binds);
  out.set("idle_share", plan.idle_share);
  Json rates;
  rates.set("flops", plan.rates.flops);
  rates.set("memory_bytes", plan.rates.memory_bytes);
  rates.set("host_bytes", plan.rates.host_bytes);
  rates.set("disk_read_bytes", plan.rates.disk_read_bytes);
  rates.set("disk_write_bytes", plan.rates.disk_write_bytes);
  out.set("rates", rates);
  out.set("smallest_number_of_devices", plan.smallest_number_of_devices);
  out.set("output", answer.output);
  out.set("output_bytes", answer.output_bytes);
  out.set("output_free_bytes", answer.output_free_bytes ? Json(*answer.output_free_bytes) : Json());
  out.set("flags", answer.flags);
  return out;
}

/// A list of modules, its middle left out where it is long; --json has all.
std::string short_list(const std::string& modules) {
  constexpr std::size_t kFront = 24, kBack = 16;
  if (modules.empty()) return "-";
  if (modules.size() <= kFront + kBack) return modules;
  return text(modules.substr(0, modules.rfind(", ", kFront)), ", ...",
              modules.substr(modules.find(", ", modules.size() - kBack) + 1));
}

void print_devices(const plan::DevicePlan& plan) {
  using Row = plan::DevicePlan::DeviceRow;
  using Align = Table::Align;
  const bool streams = plan.num_waves > 0;
  std::vector<Table::Column> columns = {
      {"device", Align::left}, {"limit"}, {"weights"}, {"budget"},  {"activations"},
      {"workspace"},           {"rings"}, {"free"},    {"compute"}, {"modules", Align::left}};
  if (streams) columns.insert(columns.end() - 2, {"streaming"});
  if (streams) columns.push_back({"streamed", Align::left});
  Table table(std::move(columns));
  for (const Row& row : plan.devices) {
    std::vector<std::string> cells = {row.name,
                                      bytes_text(row.limit_bytes),
                                      bytes_text(row.weights_bytes),
                                      bytes_text(row.weights_budget_bytes),
                                      bytes_text(row.reserve.activations_bytes),
                                      bytes_text(row.reserve.context_bytes + row.reserve.workspace_bytes),
                                      bytes_text(row.reserve.rings_bytes),
                                      bytes_text(row.free_bytes)};
    if (streams) cells.push_back(bytes_text(row.stream_bytes));
    cells.push_back(number_text(row.compute_seconds) + " s");
    cells.push_back(short_list(row.modules));
    if (streams) cells.push_back(short_list(row.streamed));
    table.add_row(std::move(cells));
  }
  std::cout << table;
}

void print(const Answer& answer, const runtime::Prepared& prepared) {
  const plan::DevicePlan& plan = answer.plan;
  std::cout << plan::name_of(prepared.plan.test_type) << " in " << name_of(prepared.plan.dtype) << ": "
            << prepared.prompts.num_prompts() << " prompts, " << prepared.prompts.num_tokens() << " tokens, "
            << prepared.plan.points.size() << " points; " << plan.num_micro_batches << " micro-batches of at most "
            << plan.tokens_per_batch << " tokens\n";
  if (prepared.part) std::cout << shard_text(*prepared.part) << "\n";
  print_devices(plan);
  constexpr std::size_t kShownCuts = 32;
  for (std::size_t i = 0; i < std::min(plan.cuts.size(), kShownCuts); ++i)
    std::cout << "cut: " << shortened(plan.cuts[i]) << "\n";
  if (plan.cuts.size() > kShownCuts) std::cout << "(" << plan.cuts.size() - kShownCuts << " more cuts in --json)\n";
  if (plan.replicas.size() > 1) {
    std::cout << "replicas: " << plan.replicas.size() << ", the last on " << join(plan.replicas.back(), ",") << "\n";
  }
  if (plan.num_waves > 0) {
    std::cout << "streaming: " << bytes_text(plan.streamed_disk_bytes) << " from the disk and "
              << bytes_text(plan.streamed_host_bytes) << " from the host's memory in each of " << plan.num_waves
              << (plan.num_waves == 1 ? " wave\n" : " waves\n");
  }
  std::cout << "loading: " << bytes_text(plan.load_bytes) << " in " << number_text(plan.load_seconds) << " s\n"
            << "running: " << number_text(plan.run_seconds) << " s, "
            << (plan.tokens_per_second >= 1000 ? fixed_text(plan.tokens_per_second, 0)
                                               : number_text(plan.tokens_per_second))
            << " tokens/s; " << plan.binds << " binds";
  if (plan.idle_share >= 0.005) {
    std::cout << ", " << number_text(100 * plan.idle_share) << "% of the time stages wait for the pipeline";
  }
  std::cout << "\n";
  const auto rate = [](double bytes) { return bytes_text(static_cast<std::uint64_t>(bytes)) + "/s"; };
  std::cout << "assumed: " << number_text(plan.rates.flops / 1e12) << " TFLOP/s, " << rate(plan.rates.host_bytes)
            << " between the host and a device, weights at " << rate(plan.rates.disk_read_bytes) << ", captures at "
            << rate(plan.rates.disk_write_bytes) << "\n";
  if (answer.output_free_bytes) {
    std::cout << "output: " << bytes_text(answer.output_bytes) << " to " << shortened(answer.output) << ", where "
              << bytes_text(*answer.output_free_bytes) << " are free\n";
  }
  const std::string kind = text(plan.devices.front().name.starts_with("cuda") ? "GPU" : "device", " with ",
                                bytes_text(plan.devices.front().limit_bytes));
  const std::int64_t smallest = plan.smallest_number_of_devices;
  std::cout << "smallest: "
            << (smallest == 0   ? text("no number of a ", kind, " holds all weights: one module is larger")
                : smallest == 1 ? text("one ", kind, " holds all weights")
                                : text(smallest, " times a ", kind, " hold all weights"))
            << "\nflags: " << answer.flags << "\n";
}

ExitCode plan_run(PlanArguments& arguments) {
  runtime::RunOptions& options = finished(arguments.common);
  const bool takes_prompts =
      options.request.test_type == plan::TestType::full || options.request.test_type == plan::TestType::extract_all;
  if (options.input.kinds() == 0 && takes_prompts) options.input.random_tokens = kDefaultTokens;
  const placement::Machine machine = runtime::machine_of(options, arguments.gpus);
  Progress progress(arguments.common.quiet);
  const runtime::Prepared prepared(options, progress.watch());

  Answer answer;
  answer.output = prepared.output(options);
  const bool writes = answer.output != "none";
  if (writes) {
    answer.output_bytes = runtime::output_bytes(options, prepared);
    answer.output_free_bytes = free_bytes(answer.output);
  }
  answer.plan = runtime::plan_devices(options, prepared, machine);
  answer.flags = flags_of(arguments, machine, answer.plan);
  if (arguments.common.json) {
    std::cout << json_of(answer, prepared).dump(2) << "\n";
  } else if (!arguments.common.quiet) {
    print(answer, prepared);
  }
  if (answer.has_space()) return ExitCode::success;
  std::cout << std::flush;
  std::cerr << "no space: the output takes " << bytes_text(answer.output_bytes) << " and "
            << bytes_text(*answer.output_free_bytes)
            << " are free; keep less (--layers, --tokens), or write elsewhere\n";
  return ExitCode::differs;
}

}  // namespace

void add_plan(CLI::App& app, Command& chosen) {
  const auto arguments = std::make_shared<PlanArguments>();
  CLI::App* command = app.add_subcommand(
      "plan",
      "Show what run would do: what goes where, memory, bytes, time. Needs no GPU; 64x1024 tokens without input");
  add_common_options(*command, arguments->common);
  command
      ->add_option("--gpus", arguments->gpus,
                   "GPUs to plan for, by what may be taken of each: 8x80GiB, or 75GiB,40GiB (this machine's)")
      ->type_name("8x80GiB");
  command->callback([&chosen, arguments] { chosen = [arguments] { return plan_run(*arguments); }; });
}

}  // namespace layerprobe::cli
