#include "cli/metrics.h"

#include <doctest/doctest.h>

#include <atomic>
#include <map>
#include <regex>
#include <string>

#include "base/error.h"
#include "tests/store/sample.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

/// The values of a file of Prometheus' text format by name and labels. Every line is checked.
std::map<std::string, double> values_in(const std::string& exposition) {
  static const std::regex kValue(
      R"re((layerprobe_[a-z_]+\{run="[^"]*"(?:,[a-z_]+="(?:[^"\\]|\\["\\n])*")*\}) (\S+))re");
  std::map<std::string, double> values;
  std::map<std::string, std::string> types;
  std::istringstream lines(exposition);
  for (std::string line, word, name; std::getline(lines, line);) {
    CAPTURE(line);
    std::smatch match;
    if (line.starts_with("# ")) {
      std::string type;
      std::istringstream(line) >> word >> word >> name >> type;
      if (word == "TYPE") CHECK(types.emplace(name, type).second);  // once each
      continue;
    }
    REQUIRE(std::regex_match(line, match, kValue));
    CHECK(types.contains(line.substr(0, line.find('{'))));
    CHECK(values.emplace(match[1], std::stod(match[2])).second);
  }
  return values;
}

}  // namespace

TEST_CASE("metrics say how far a run is, what its devices wait for, and how its GPUs are") {
  const test::TempFolder folder;
  const auto gpus = [] {
    return std::vector<cli::GpuHealth>{{"cuda:0", 6e10, 8e10, 0.93, 71}, {.device = "cuda:1", .temperature = 40}};
  };
  cli::Metrics metrics(folder / "night.prom", {{"model", "a \"quoted\"\\\nname"}}, gpus);
  const auto read = [&] { return values_in(test::read_all(folder / "night.prom")); };
  CHECK(read().at("layerprobe_run_phase{run=\"night\",phase=\"preparing\"}") == 1);
  CHECK(read().contains("layerprobe_run_info{run=\"night\",model=\"a \\\"quoted\\\"\\\\\\nname\"}"));

  runtime::RunState state;
  state.loaded_bytes = 5;
  state.load_bytes = 10;
  state.num_tokens = 4000;
  state.devices = {{.name = "cuda:0", .modules = "0-1", .memory_bytes = 123'456'789'012, .waits_for = "weights"}};
  metrics.write(state);
  CHECK(read().at("layerprobe_run_phase{run=\"night\",phase=\"loading\"}") == 1);
  state.loaded_bytes = 10;
  state.tokens = 1234.5;
  state.captured_bytes = 1'000'000'007;
  state.devices[0].waits_for = "the ring of captures";
  state.devices[0].ring_seconds = 1.25;
  metrics.write(state);
  const std::map<std::string, double> values = read();
  CHECK(values.at("layerprobe_run_phase{run=\"night\",phase=\"running\"}") == 1);
  CHECK(values.at("layerprobe_tokens_total{run=\"night\"}") == 1234.5);
  CHECK(values.at("layerprobe_tokens_expected{run=\"night\"}") == 4000);
  CHECK(values.at("layerprobe_tokens_per_second{run=\"night\"}") > 0);
  CHECK(values.at("layerprobe_captured_bytes_total{run=\"night\"}") == 1'000'000'007);
  CHECK(values.at("layerprobe_device_memory_bytes{run=\"night\",device=\"cuda:0\"}") == 123'456'789'012);
  CHECK(values.at("layerprobe_device_waits{run=\"night\",device=\"cuda:0\",for=\"captures\"}") == 1);
  CHECK(values.at("layerprobe_device_waits{run=\"night\",device=\"cuda:0\",for=\"weights\"}") == 0);
  CHECK(values.at("layerprobe_device_wait_seconds_total{run=\"night\",device=\"cuda:0\",for=\"captures\"}") == 1.25);
  CHECK(values.at("layerprobe_gpu_utilization_ratio{run=\"night\",device=\"cuda:0\"}") == 0.93);
  CHECK(values.at("layerprobe_gpu_temperature_celsius{run=\"night\",device=\"cuda:0\"}") == 71);
  CHECK(values.at("layerprobe_gpu_temperature_celsius{run=\"night\",device=\"cuda:1\"}") == 40);
  CHECK_FALSE(values.contains("layerprobe_gpu_utilization_ratio{run=\"night\",device=\"cuda:1\"}"));
  metrics.end("stopped");
  CHECK(read().at("layerprobe_run_phase{run=\"night\",phase=\"stopped\"}") == 1);
  CHECK(read().at("layerprobe_tokens_total{run=\"night\"}") == 1234.5);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);  // nothing is left beside it
}

TEST_CASE("a run beats while it goes on and once at the end, when all is done") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  runtime::RunOptions options;
  options.model = folder.path().string();
  options.input.random_tokens = "200x32";
  options.tokens_per_batch = 32;
  options.device_map = "cpu:0,cpu:1";
  options.num_replicas = 1;
  options.output = "none";
  std::vector<runtime::RunState> states;
  runtime::Watch watch;
  watch.beat_seconds = 0.001;
  watch.beat = [&](const runtime::RunState& state) {
    states.push_back(state);
    if (states.size() == 2) throw std::runtime_error("not the run's problem");
  };
  runtime::run(options, watch);
  REQUIRE(states.size() > 2);
  for (std::size_t i = 1; i < states.size(); ++i) {
    CHECK(states[i].tokens >= states[i - 1].tokens);
    CHECK(states[i].captured_bytes >= states[i - 1].captured_bytes);
    CHECK(states[i].num_tokens == 6400);
  }
  const runtime::RunState& last = states.back();
  CHECK(last.tokens == 6400);
  CHECK(last.loaded_bytes == last.load_bytes);
  CHECK(last.captured_bytes == 6400 * 36 * 2 * 5);
  REQUIRE(last.devices.size() == 2);
  CHECK(last.devices[1].upstream_seconds > 0);
}

TEST_CASE("--metrics is there from the beginning to the end, and refused where it could not be read") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  const auto run = [&](const std::string& metrics, const char* tokens = "3x5") {
    return test::run_layerprobe({"--model", folder.path().string(), "--random-tokens", tokens, "--output", "none",
                                 "--quiet", "--metrics", (folder / metrics.c_str()).string()});
  };
  CHECK(run("a.prom").exit_code == 0);
  std::map<std::string, double> values = values_in(test::read_all(folder / "a.prom"));
  CHECK(values.at("layerprobe_run_phase{run=\"a\",phase=\"finished\"}") == 1);
  CHECK(values.at("layerprobe_tokens_total{run=\"a\"}") == 15);
  CHECK(values.contains("layerprobe_device_wait_seconds_total{run=\"a\",device=\"cpu\",for=\"weights\"}"));
  CHECK(run("b.prom", "3x").exit_code == 2);
  CHECK(values_in(test::read_all(folder / "b.prom")).at("layerprobe_run_phase{run=\"b\",phase=\"failed\"}") == 1);
  CHECK(run("a.txt").err.starts_with("error: --metrics: \""));
  const test::Finished nowhere = run("no/such/a.prom");
  CHECK(nowhere.exit_code == 2);
  CHECK(nowhere.err.starts_with("error: --metrics: "));
}

}  // namespace layerprobe
