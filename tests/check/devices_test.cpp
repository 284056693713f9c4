#include "check/devices.h"

#include <doctest/doctest.h>

#include <functional>
#include <map>

#include "tests/support/forwarding_ops.h"

namespace layerprobe {
namespace {

using check::Item;
using check::Items;
using check::Status;
using device::Ops;
using test::ForwardingOps;

/// A little of everything: these devices are the host's processors.
check::Effort little() {
  return {.num_tokens = 70,
          .features = 96,
          .product_seconds = 0,
          .copy_bytes = std::size_t{1} << 20,
          .num_copies = 1,
          .proof_bytes = std::size_t{64} << 10};
}

/// One that the tests can spoil.
class Spoiled : public ForwardingOps {
 public:
  Spoiled(Ops& ops, std::string name) : ForwardingOps(ops, std::move(name)) {}

  std::function<void(const device::Tensor& out)> after_product = [](const auto&) {};
  std::function<void(const device::Tensor& out)> after_send = [](const auto&) {};
  std::function<void(const device::Tensor& out)> after_embedding = [](const auto&) {};
  std::function<void(void* host)> after_copy_to_host = [](void*) {};
  bool has_peers = true;

  /// Whose shared memory it is.
  static std::string owner_of(const void* data) { return owners()[data]; }

  device::Buffer allocate_shared(std::size_t bytes) override {
    device::Buffer buffer = ForwardingOps::allocate_shared(bytes);
    owners()[buffer.data()] = name();
    return buffer;
  }
  void matmul(const MatMul& args) override {
    ForwardingOps::matmul(args);
    after_product(args.out);
  }
  bool reaches(const Ops& other) const override { return has_peers && ForwardingOps::reaches(other); }
  std::unique_ptr<device::Moment> send(const Send& args) override {
    auto moment = ForwardingOps::send(args);
    after_send(args.out);
    return moment;
  }
  void embedding(const Embedding& args) override {
    ForwardingOps::embedding(args);
    after_embedding(args.out);
  }
  void start_copy_to_host(void* host, const device::Tensor& x) override {
    ForwardingOps::start_copy_to_host(host, x);
    after_copy_to_host(host);
  }

 private:
  static std::map<const void*, std::string>& owners() {
    static std::map<const void*, std::string> owners;
    return owners;
  }
};

/// Three devices as GPUs, without a fault.
struct Three {
  std::unique_ptr<Ops> cpu = device::cpu_ops(1, "cpu:0");
  Spoiled first{*cpu, "cuda:0"}, second{*cpu, "cuda:1"}, third{*cpu, "cuda:2"};
  check::Bench bench{.devices = {&first, &second, &third}};
};

void flip(void* data) { static_cast<std::byte*>(data)[5] ^= std::byte{1}; }

/// Those that are no pass.
Items wrong(Items items) {
  std::erase_if(items, [](const Item& item) { return item.status == Status::pass; });
  return items;
}

std::vector<check::Gpu> gpus_of(const std::vector<const char*>& names) {
  std::vector<check::Gpu> gpus;
  for (std::size_t i = 0; i < names.size(); ++i) {
    device::GpuState state;
    state.address.bus = static_cast<unsigned>(i);
    state.pcie = {.generation = 5, .width = 16, .most_generation = 5, .most_width = 16};
    state.links.assign(18, {.is_active = true, .bytes_per_second = 26.562e9, .remote = {}, .recoveries = 0});
    for (std::size_t other = 0; other < names.size(); ++other) {
      if (other != i) state.nvlink_peers.push_back({.domain = 0, .bus = static_cast<unsigned>(other), .device = 0});
    }
    check::Gpu& gpu = gpus.emplace_back();
    gpu.info.name = names[i];
    gpu.info.model = "NVIDIA H100 80GB HBM3";
    gpu.info.address = state.address;
    gpu.state = state;
  }
  return gpus;
}

}  // namespace

TEST_CASE("devices that are well multiply right, and carry to each other both ways") {
  const Three three;
  check::Effort effort = little();
  effort.product_seconds = 0.01;
  const auto products = check::try_products(three.bench, effort);
  CHECK(products.size() == 3);
  for (const auto& product : products) {
    CHECK(product.wrong.empty());
    CHECK(product.flops > 0);
  }
  const auto pairs = check::try_pairs(three.bench, little());
  CHECK(pairs.size() == 6);
  const Items items = check::judge_pairs(pairs, {});
  CHECK(items.size() == 3);
  CHECK(items[0].name == "cuda:0 to others");
  CHECK(items[0].measured.starts_with("2 arrive straight, "));
  CHECK(wrong(items).empty());
  CHECK(wrong(check::judge_copies(check::try_copies(three.bench, little()), {})).empty());
}

TEST_CASE("a device that multiplies wrongly is named with the element") {
  Three three;
  three.second.after_product = [](const device::Tensor& out) { flip(out.data); };
  const Items items = wrong(check::judge_products(check::try_products(three.bench, little()), {}));
  REQUIRE(items.size() == 1);
  CHECK(items[0].name == "cuda:1 product");
  CHECK(items[0].status == Status::fail);
  CHECK(items[0].measured.starts_with("element [0, 2] is "));
  CHECK(items[0].advice.find("computes wrongly") != std::string::npos);
}

TEST_CASE("a device that fails is an item, and the others are tried all the same") {
  Three three;
  three.second.after_product = [](const device::Tensor&) {
    throw Error(
        {.kind = ErrorKind::device, .where = "run on cuda:1", .what = "an illegal address", .fix = "run again"});
  };
  const Items items = check::judge_products(check::try_products(three.bench, little()), {});
  CHECK(items.size() == 3);
  CHECK(items[1].status == Status::fail);
  CHECK(items[1].measured == "run on cuda:1: an illegal address");
  CHECK(items[2].status == Status::pass);
}

TEST_CASE("one slow GPU among equals is found, by the rate of those of its model") {
  const auto trial = [](const char* device, double flops) {
    return check::ProductTrial{.device = device, .failure = {}, .wrong = {}, .flops = flops};
  };
  auto gpus = gpus_of({"cuda:0", "cuda:1", "cuda:2", "cuda:3"});
  const std::vector<check::ProductTrial> trials = {trial("cuda:0", 701e12), trial("cuda:1", 698e12),
                                                   trial("cuda:2", 410e12), trial("cuda:3", 705e12)};
  const Items items = wrong(check::judge_products(trials, gpus));
  REQUIRE(items.size() == 1);
  CHECK(items[0].name == "cuda:2 product");
  CHECK(items[0].status == Status::warn);
  CHECK(items[0].measured == "right, 410 TFLOP/s");
  CHECK(items[0].expected == "90% of the others' 701 TFLOP/s");
  gpus[2].info.model = "NVIDIA A100-SXM4-80GB";  // not slow: another model
  CHECK(wrong(check::judge_products(trials, gpus)).empty());
  const Items of_two = wrong(check::judge_products({trials[2], trials[3]}, gpus_of({"cuda:2", "cuda:3"})));
  REQUIRE(of_two.size() == 1);
  CHECK(of_two[0].name == "cuda:2 product");
}

TEST_CASE("a pair whose copies arrive damaged is named, in its direction") {
  Three three;
  three.third.after_send = [](const device::Tensor& out) { flip(out.data); };
  const Items items = wrong(check::judge_pairs(check::try_pairs(three.bench, little()), {}));
  REQUIRE(items.size() == 2);
  CHECK(items[0].name == "cuda:2 to cuda:0");
  CHECK(items[1].name == "cuda:2 to cuda:1");
  CHECK(items[0].status == Status::fail);
  CHECK(items[0].measured == "peer copies arrive damaged");
  CHECK(items[0].advice.find("--transport host") != std::string::npos);
}

TEST_CASE("a pair where a kernel's stores arrive damaged is named, though its copies do not") {
  Three three;
  three.first.after_embedding = [](const device::Tensor& out) {
    if (Spoiled::owner_of(out.data) == "cuda:1") flip(out.data);
  };
  const Items items = wrong(check::judge_pairs(check::try_pairs(three.bench, little()), {}));
  REQUIRE(items.size() == 1);
  CHECK(items[0].name == "cuda:0 to cuda:1");
  CHECK(items[0].status == Status::fail);
  CHECK(items[0].measured == "what a kernel writes there arrives damaged");
}

TEST_CASE("devices without a way to each other go through the host, which is told where NVLink is there") {
  Three three;
  three.first.has_peers = false;
  const auto pairs = check::try_pairs(three.bench, little());
  const Items plain = check::judge_pairs(pairs, {});
  CHECK(plain[0].measured == "2 through the host's memory");
  CHECK(wrong(plain).empty());
  const Items with_nvlink = wrong(check::judge_pairs(pairs, gpus_of({"cuda:0", "cuda:1", "cuda:2"})));
  CHECK(with_nvlink[0].name == "cuda:0 to cuda:1");
  CHECK(with_nvlink[0].status == Status::warn);
  CHECK(with_nvlink[0].expected == "NVLink, which NVML shows");
}

TEST_CASE("a slow link is held against what it could carry") {
  const auto trial = [](const char* from, const char* to, double rate) {
    return check::PairTrial{.from = from,
                            .to = to,
                            .failure = {},
                            .reaches = true,
                            .copies_arrive = true,
                            .stores_arrive = true,
                            .arrives_by_host = true,
                            .rate = rate};
  };
  const auto gpus = gpus_of({"cuda:0", "cuda:1"});
  CHECK(wrong(check::judge_pairs({trial("cuda:0", "cuda:1", 393e9), trial("cuda:1", "cuda:0", 390e9)}, gpus)).empty());
  const Items items =
      wrong(check::judge_pairs({trial("cuda:0", "cuda:1", 393e9), trial("cuda:1", "cuda:0", 98e9)}, gpus));
  REQUIRE(items.size() == 1);
  CHECK(items[0].name == "cuda:1 to cuda:0");
  CHECK(items[0].status == Status::warn);
  CHECK(items[0].measured == "98.0 GB/s");
  CHECK(items[0].expected == "287 GB/s of the 478 GB/s of its NVLink");
  CHECK(items[0].advice.starts_with("see nvidia-smi nvlink"));
}

TEST_CASE("a way to the host that is slow, or damages, is told") {
  Three three;
  three.second.after_copy_to_host = flip;
  const auto trials = check::try_copies(three.bench, little());
  const Items damaged = wrong(check::judge_copies(trials, {}));
  REQUIRE(damaged.size() == 1);
  CHECK(damaged[0].name == "cuda:1 copies");
  CHECK(damaged[0].status == Status::fail);

  const check::CopyTrials rates{
      .devices = {{.device = "cuda:0", .failure = {}, .is_intact = true, .to_device = 54e9, .to_host = 55e9},
                  {.device = "cuda:1", .failure = {}, .is_intact = true, .to_device = 54e9, .to_host = 13e9}},
      .all_to_device = 107e9,
      .all_to_host = 60e9};
  const Items items = check::judge_copies(rates, gpus_of({"cuda:0", "cuda:1"}));
  CHECK(items[0].status == Status::pass);
  CHECK(items[0].measured == "54.0 GB/s from the host, 55.0 GB/s back");
  CHECK(items[1].status == Status::warn);
  CHECK(items[1].expected == "60% of 63.0 GB/s");
  CHECK(items[2].name == "copies of all at once");
}

TEST_CASE("a sum over GPUs that is wrong is told with the element") {
  device::AllReduce sum{.version = "2.28.9", .wrong = {}, .bytes_per_second = 310e9};
  CHECK(check::judge_all_reduce(sum, 4).measured == "4 GPUs, sums right, 310 GB/s");
  sum.wrong = "cuda:1 has 3 for element 7 where 6 is due";
  CHECK(check::judge_all_reduce(sum, 4).status == Status::fail);
}

}  // namespace layerprobe
