#include "placement/place.h"

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <string>

#include "base/error.h"
#include "base/text.h"
#include "placement/budgets.h"
#include "runtime/random.h"

namespace layerprobe::placement {
namespace {

constexpr Device cuda(int index) { return {Device::Kind::cuda, index}; }

/// A model of `num_layers` layers of 100 bytes and 1 second, an embedding of 40, a norm of 1 and a head of 40 bytes.
struct Bench {
  TreeModule tree;
  Work work;
  std::vector<DeviceBudget> devices;
  DeviceMap map;
  std::uint64_t host_limit = 0;
  std::int64_t num_replicas = 0;

  Bench(int num_layers, const std::vector<std::uint64_t>& limits, std::string_view given = "auto")
      : map(parse_device_map(given)) {
    work.num_micro_batches = 100;
    const auto add = [&](const std::string& name, bool is_layer, std::uint64_t bytes, double seconds) {
      work.modules.push_back({.name = name,
                              .is_layer = is_layer,
                              .weights_bytes = bytes,
                              .compute_seconds = seconds,
                              .bring_seconds = static_cast<double>(bytes) / 100});
      add_tensor(tree, {name + ".weight", bytes});
    };
    add("model.embed_tokens", false, 40, 0);
    for (int i = 0; i < num_layers; ++i) {
      add(text("model.layers.", i), true, 100, 1);
      tree.children[0].children[1].children.back().is_no_split = true;
    }
    add("model.norm", false, 1, 0);
    add("lm_head", false, 40, 0.1);
    sum_bytes(tree);
    for (std::size_t i = 0; i < limits.size(); ++i) {
      devices.push_back({.device = cuda(static_cast<int>(i)), .limit = limits[i]});
    }
  }

  Request request() const {
    return {.map = map,
            .work = work,
            .tree = tree,
            .devices = devices,
            .host_limit = host_limit,
            .num_replicas = num_replicas};
  }
  Placement place() const { return placement::place(request()); }
};

/// How many modules of each device, resident and streamed: "5+0 5+2"
std::string shares(const Placement& placement) {
  std::vector<std::pair<int, int>> counts(placement.devices.size());
  for (const Placed& placed : placement.modules) {
    ++(placed.home == Home::resident ? counts[placed.device].first : counts[placed.device].second);
  }
  std::string out;
  for (const auto& [resident, streamed] : counts) out += text(out.empty() ? "" : " ", resident, "+", streamed);
  return out;
}

void refused(const Bench& bench, const char* message) {
  CHECK_THROWS_WITH_AS(bench.place(), doctest::Contains(message), Error);
}

}  // namespace

TEST_CASE("auto cuts where the stages take even times, though bytes would say otherwise") {
  Bench bench(8, {700, 700});
  const Placement placement = bench.place();
  CHECK(placement.replicas.size() == 1);
  CHECK(shares(placement) == "5+0 6+0");  // embedding and four layers; four layers, norm and head
  bench.work.modules[1].compute_seconds = 4;
  CHECK(shares(bench.place()) == "4+0 7+0");
}

TEST_CASE("auto keeps to the budgets") {
  CHECK(shares(Bench(8, {250, 900}).place()) == "3+0 8+0");
  CHECK(shares(Bench(8, {900, 250}).place()) == "7+0 4+0");
}

TEST_CASE("auto replicates a model that fits fewer devices, where there is enough to do") {
  Bench bench(8, {1000, 1000, 1000, 1000});
  const Placement four = bench.place();
  CHECK(four.replicas.size() == 4);
  CHECK(four.replicas[3] == std::vector{cuda(3)});
  for (DeviceBudget& device : bench.devices) device.limit = 600;
  const Placement pairs = bench.place();
  CHECK(pairs.replicas == std::vector<std::vector<Device>>{{cuda(0), cuda(1)}, {cuda(2), cuda(3)}});
  bench.num_replicas = 1;
  CHECK(bench.place().replicas.size() == 1);
  CHECK(bench.place().devices.size() == 4);
  bench.num_replicas = 3;
  refused(bench, "3 replicas do not fit 4 devices");
  bench.num_replicas = 0;
  bench.work.num_micro_batches = 1;  // nothing to do for a second replica, nor for a second stage
  CHECK(bench.place().replicas.size() == 1);
  CHECK(bench.place().devices.size() == 2);
}

TEST_CASE("auto streams what does not fit, spread between the layers that stay, and in as many waves as pay") {
  Bench bench(8, {541});  // the embedding, norm and head, room for two layers to come, and two layers
  const Placement placement = bench.place();
  CHECK(shares(placement) == "5+6");
  CHECK(placement.streams());
  CHECK(placement.modules[0].home == Home::resident);
  const std::vector<DeviceLoad> loads = device_loads(bench.work, placement);
  CHECK(loads[0].resident_bytes == 281);
  CHECK(loads[0].weights_bytes() <= 541);
  CHECK(loads[0].streamed_bytes == 600);
  CHECK(placement.num_waves == 1);
  CHECK(placement.modules[1].home == Home::disk);  // read once: from where it is

  Bench two(16, {541, 541});
  CHECK(two.place().num_waves > 1);  // one wave would keep one device busy at a time
  two.host_limit = 350;
  const Placement with_host = two.place();
  std::map<Home, int> homes;
  for (const Placed& placed : with_host.modules) ++homes[placed.home];
  CHECK(homes[Home::host] == 3);
}

TEST_CASE("a budget too small for one layer names it, its need and the smallest that works") {
  const Bench bench(8, {150});
  refused(bench, "model.layers.0: needs 200 B on a device, for itself and the next one to come");
  refused(bench, "the largest budget is 150 B (cuda:0)");
  CHECK(Bench(8, {200}).place().streams());
}

TEST_CASE("layers that run one at a time need room for one") {
  Bench bench(8, {100, 100});
  bench.work.modules.erase(bench.work.modules.begin());
  bench.work.modules.resize(8);
  bench.work.one_at_a_time = true;
  CHECK(shares(bench.place()) == "8+0");  // of each of two replicas
  CHECK(bench.place().replicas.size() == 2);
  for (DeviceBudget& device : bench.devices) device.limit = 99;
  refused(bench, "needs 100 B on a device, beside 0 B");
}

TEST_CASE("an explicit map goes by the longest prefix that ends at a dot") {
  Bench bench(12, {2000, 2000}, R"({"": 0, "model.layers.1": 1, "lm_head": "cuda:1"})");
  const Placement placement = bench.place();
  CHECK(placement.modules[1].device == 0);
  CHECK(placement.modules[2].device == 1);
  CHECK(placement.modules[11].device == 0);  // model.layers.10, which transformers would load on 1
  CHECK(placement.modules.back().device == 1);
  bench.map =
      parse_device_map(R"({"model.language_model.layers": 0, "embed_tokens": 1, "norm.weight": 1, "lm_head": 1})");
  CHECK(bench.place().modules[0].device == 1);
  CHECK(bench.place().modules[5].device == 0);
}

TEST_CASE("an explicit map that is wrong is one clear error") {
  const auto with = [](std::string_view map) { return Bench(3, {2000, 150}, map); };
  refused(with(R"({"model.layer": 0})"), "the model has no module \"model.layer\"");
  refused(with(R"({"model.layer": 0})"), "did you mean model.layers");
  refused(with(R"({"model.layers.3": 0})"), "the model has no module \"model.layers.3\"");
  refused(with(R"({"model.layers.0.mlp": 0})"), "is a part of model.layers.0, which goes to one device as a whole");
  refused(with(R"({"model.layers": 0, "lm_head": 0})"), "leaves out model.embed_tokens, model.norm");
  refused(with(R"({"model": 0, "language_model.model": 1, "lm_head": 0})"), "names model a second time");
  refused(with(R"({"": 0, "model.layers": 1})"),
          "model.layers.1: does not fit on cuda:1: needs 100 B, 50 B left of 150 B");
}

TEST_CASE("modules on cpu and disk are dealt to the map's devices in unbroken shares of even time") {
  Bench bench(8, {400, 400}, R"({"": "disk", "model.embed_tokens": 0, "lm_head": 1, "model.layers.7": "cpu"})");
  const Placement placement = bench.place();
  CHECK(shares(placement) == "1+4 1+5");
  CHECK(placement.modules[1] == Placed{0, Home::disk});
  CHECK(placement.modules[8] == Placed{1, Home::host});
  CHECK(placement.streams());
}

TEST_CASE("a map without a device runs on cpu:0, where the host's memory is the device's") {
  Bench bench(4, {}, R"({"": "cpu", "model.layers.3": "disk"})");
  bench.devices = device_budgets(bench.map, {}, {.gpus = {}, .host_bytes = 5000});
  const Placement placement = bench.place();
  CHECK(name_of(placement.devices[0].device) == "cpu:0");
  CHECK(placement.modules[0].home == Home::resident);
  CHECK(placement.modules[4].home == Home::disk);
  bench.map = parse_device_map("sequential");
  bench.devices = device_budgets(bench.map, {}, {.gpus = {}, .host_bytes = 5000});
  CHECK_FALSE(bench.place().streams());
}

TEST_CASE("transformers' strategies fill weights alone, and what overflows streams") {
  Bench bench(8, {700, 700}, "sequential");
  CHECK(shares(bench.place()) == "6+0 5+0");  // room on the first for a layer that is still to come
  bench.map = parse_device_map("balanced");
  CHECK(shares(bench.place()) == "5+0 6+0");
  Bench small(8, {500}, "sequential");
  small.host_limit = 10'000;
  const Placement placement = small.place();
  CHECK(shares(placement) == "2+9");
  CHECK(placement.weights_budgets == std::vector<std::int64_t>{300});  // less room for two layers on their way
}

TEST_CASE("why a cut is where it is") {
  const auto why = [](const Bench& bench) { return explain_cuts(bench.request(), bench.place()).at(0).why; };
  CHECK(why(Bench(8, {250, 900})) ==
        "model.layers.2 does not fit on cuda:0: needs 100 B, 10 B left of 250 B for weights");
  CHECK(why(Bench(8, {700, 700})) ==
        "even times: cuda:0 computes 4 s, cuda:1 4.1 s; with model.layers.4 cuda:0 would take 5 s");
  CHECK(why(Bench(8, {2000, 700}, R"({"": 0, "lm_head": 1})")) == "the map sends lm_head to cuda:1");
}

TEST_CASE("the smallest number of devices holds the model without streaming") {
  const Bench bench(8, {250});
  CHECK(smallest_number_of_devices(bench.work, bench.devices[0]) == 4);
  CHECK(smallest_number_of_devices(bench.work, {.device = cuda(0), .limit = 2000, .reserved = 1900}) == 10);
  CHECK(smallest_number_of_devices(bench.work, {.device = cuda(0), .limit = 99}) == 0);
}

TEST_CASE("whatever the budgets, a placement keeps to them or is refused") {
  std::vector<double> random(997);
  runtime::random_normal(5, 0, random);
  std::size_t next = 0;
  const auto number = [&](double most) {
    return static_cast<std::uint64_t>(std::min(std::abs(random[next++ % random.size()]) / 2, 1.0) * most);
  };
  const char* maps[] = {"auto",
                        "balanced",
                        "balanced_low_0",
                        "sequential",
                        R"({"": 0, "model.layers": "cpu"})",
                        R"({"": "disk", "model.layers.0": 0, "lm_head": "cpu"})"};
  int placed = 0, streamed = 0, refusals = 0;
  for (int round = 0; round < 3000; ++round) {
    CAPTURE(round);
    std::vector<std::uint64_t> limits(1 + number(5));
    for (std::uint64_t& limit : limits) limit = number(1500);
    Bench bench(static_cast<int>(1 + number(12)), limits, maps[round % 6]);
    bench.work.num_micro_batches = static_cast<std::int64_t>(number(40));
    bench.host_limit = number(1000);
    for (Module& module : bench.work.modules) module.compute_seconds *= static_cast<double>(number(10));
    for (DeviceBudget& device : bench.devices) device.reserved = number(300);
    try {
      const Placement placement = bench.place();
      ++placed;
      streamed += placement.streams() ? 1 : 0;
      REQUIRE(placement.modules.size() == bench.work.modules.size());
      const std::vector<DeviceLoad> loads = device_loads(bench.work, placement);
      for (std::size_t i = 0; i < loads.size(); ++i) {
        CHECK(loads[i].weights_bytes() <= placement.devices[i].weights_limit());
      }
      for (const std::vector<Device>& replica : placement.replicas) CHECK(replica.size() == placement.devices.size());
      CHECK(predict(bench.work, placement).seconds >= 0);
      for (const Cut& cut : explain_cuts(bench.request(), placement)) CHECK_FALSE(cut.why.empty());
    } catch (const Error& error) {
      ++refusals;
      CHECK(error.kind() == ErrorKind::resource);
      CHECK_FALSE(error.parts().fix.empty());
    }
  }
  CHECK(placed > 300);
  CHECK(streamed > 100);
  CHECK(refusals > 100);
}

TEST_CASE("budgets are what the machine has and the options leave of it") {
  const Machine machine = {.gpus = {{cuda(0), 80}, {cuda(1), 80}, {cuda(2), 80}}, .host_bytes = 100};
  const auto limits = [&](std::string_view map, std::string_view max_memory) {
    std::string out;
    for (const DeviceBudget& each : device_budgets(parse_device_map(map), parse_max_memory(max_memory), machine)) {
      out += text(out.empty() ? "" : " ", name_of(each.device), "=", each.limit);
    }
    return out;
  };
  CHECK(limits("auto", "") == "cuda:0=80 cuda:1=80 cuda:2=80");
  CHECK(limits("balanced", "40B") == "cuda:0=40 cuda:1=40 cuda:2=40");
  CHECK(limits("auto", "40B,100B") == "cuda:0=40 cuda:1=80");  // what is not named gets nothing
  CHECK(limits("auto", "2:30B,0:0B") == "cuda:0=0 cuda:2=30");
  CHECK(limits("cuda:2,cuda:1", "10B,20B") == "cuda:2=10 cuda:1=20");
  CHECK(limits("cpu:0,cpu:1", "") == "cpu:0=50 cpu:1=50");
  CHECK(limits("auto", "cpu:0:10B,cpu:1:20B") == "cpu:0=10 cpu:1=20");
  CHECK(limits("{\"model\": 1, \"lm_head\": 0}", "1:5B") == "cuda:0=80 cuda:1=80");
  CHECK(limits("cpu", "") == "cpu:0=100");
  const auto refuses = [&](const char* map, const char* max_memory, const char* message) {
    CHECK_THROWS_WITH_AS(limits(map, max_memory), doctest::Contains(message), Error);
  };
  refuses("auto", "cuda:7:1GB", "cuda:7 is not there; the machine has cuda:0, cuda:1, cuda:2");
  refuses("cuda:0,cuda:3", "", "cuda:3 is not there");
  refuses("{\"\": 4}", "", "cuda:4 is not there");
  refuses("auto", "1B,1B,1B,1B", "has 4 sizes for 3 devices (cuda:0 to cuda:2)");
  refuses("cuda:0,cuda:1", "2:1B", "names none of the devices");
}

TEST_CASE("--gpus counts GPUs by their sizes") {
  const std::vector<Machine::Gpu> gpus = parse_gpus("2x80GiB, 40GB");
  REQUIRE(gpus.size() == 3);
  CHECK(gpus[1].device == cuda(1));
  CHECK(gpus[1].bytes == std::uint64_t{80} << 30);
  CHECK(gpus[2].bytes == 40'000'000'000);
  for (const char* given :
       {"", "x", "8", "0x80GiB", "-1x80GiB", "5000x1GB", "99999999999x1GB", "8x", "8x80GiB,", "2*80GB"}) {
    CAPTURE(given);
    CHECK_THROWS_AS(parse_gpus(given), Error);
  }
}

}  // namespace layerprobe::placement
