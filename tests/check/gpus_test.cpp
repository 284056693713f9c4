#include "check/gpus.h"

#include <doctest/doctest.h>

#include <cstring>
#include <functional>

#include "check/versions.h"
#include "device/nvml.h"

namespace layerprobe {
namespace {

using check::Item;
using check::Items;
using check::Status;
using device::GpuState;
using device::Nvml;
using device::NvmlFunctions;
using Device = NvmlFunctions::Device;

constexpr int kNotSupported = 3;

/// What the fake NVML answers of a GPU: an H100 of eight that is well.
struct FakeGpu {
  unsigned bus = 0x1b;
  NvmlFunctions::Result handle_result = 0;
  unsigned long long total = 85'520'809'984, reserved = 600'000'000, used = 4'000'000;
  std::vector<NvmlFunctions::Process> processes = {};
  int ecc = 1;
  unsigned long long uncorrected = 0;
  unsigned retired = 0;
  bool has_retired_pages = false;  // an H100 remaps rows instead
  unsigned remapped = 0, remap_pending = 0, remap_failed = 0;
  unsigned long long slowdown = 0;
  unsigned clock = 1410, temperature = 60, power_limit = 700'000;
  unsigned generation = 5, width = 16;
  int compute_mode = 0;
  std::vector<int> links = std::vector<int>(18, 1);
  unsigned long long recoveries = 0;
};

std::vector<FakeGpu> fake_gpus;

FakeGpu& fake(Device device) { return *static_cast<FakeGpu*>(device); }

template <typename T>
NvmlFunctions::Result answer(T* out, T value) {
  *out = value;
  return NvmlFunctions::kSuccess;
}

NvmlFunctions fake_nvml() {
  NvmlFunctions out;
  out.init = [] { return 0; };
  out.shutdown = [] { return 0; };
  out.error_string = [](int result) { return result == 15 ? "GPU is lost" : "a problem"; };
  out.driver_version = [](char* words, unsigned size) {
    std::strncpy(words, "580.95.05", size);
    return 0;
  };
  out.count = [](unsigned* count) { return answer(count, static_cast<unsigned>(fake_gpus.size())); };
  out.by_index = [](unsigned i, Device* device) {
    *device = &fake_gpus.at(i);
    return fake_gpus[i].handle_result;
  };
  out.name = [](Device, char* words, unsigned size) {
    std::memset(words, 'H', size);  // without an end
    return 0;
  };
  out.pci = [](Device gpu, NvmlFunctions::Pci* pci) {
    pci->bus = fake(gpu).bus;
    return 0;
  };
  out.memory = [](Device gpu, NvmlFunctions::Memory* memory) {
    if (memory->version != (2u << 24 | 40)) return 25;  // as nvml.h counts its size
    const FakeGpu& of = fake(gpu);
    *memory = {memory->version, of.total, of.reserved, of.total - of.reserved - of.used, of.used};
    return 0;
  };
  out.processes = [](Device gpu, unsigned* count, NvmlFunctions::Process* processes) {
    const auto& there = fake(gpu).processes;
    const bool has_room = *count >= there.size();
    *count = static_cast<unsigned>(there.size());
    if (!has_room) return 7;
    std::copy(there.begin(), there.end(), processes);
    return 0;
  };
  out.ecc_mode = [](Device gpu, int* now, int* later) {
    *later = 1;
    return answer(now, fake(gpu).ecc);
  };
  out.ecc_errors = [](Device gpu, int type, int counter, unsigned long long* errors) {
    return type == 1 && counter == 0 ? answer(errors, fake(gpu).uncorrected) : kNotSupported;
  };
  out.retired_pages = [](Device gpu, int cause, unsigned* count, unsigned long long*) {
    if (!fake(gpu).has_retired_pages) return kNotSupported;
    *count = cause == 1 ? fake(gpu).retired : 0;
    return *count == 0 ? 0 : 7;  // the addresses had no room
  };
  out.remapped_rows = [](Device gpu, unsigned* corrected, unsigned* uncorrected, unsigned* pending, unsigned* failed) {
    if (fake(gpu).has_retired_pages) return kNotSupported;
    *corrected = 0;
    *uncorrected = fake(gpu).remapped;
    *pending = fake(gpu).remap_pending;
    return answer(failed, fake(gpu).remap_failed);
  };
  out.slowdown_reasons = [](Device gpu, unsigned long long* out_reasons) {
    return answer(out_reasons, fake(gpu).slowdown);
  };
  out.clock = [](Device gpu, int, unsigned* mhz) { return answer(mhz, fake(gpu).clock); };
  out.most_clock = [](Device, int, unsigned* mhz) { return answer(mhz, 1980u); };
  out.temperature = [](Device gpu, int, unsigned* degrees) { return answer(degrees, fake(gpu).temperature); };
  out.utilization = [](Device, NvmlFunctions::Utilization* rates) {
    return answer(rates, NvmlFunctions::Utilization{.gpu = 37, .memory = 12});
  };
  out.power_limit = [](Device gpu, unsigned* mw) { return answer(mw, fake(gpu).power_limit); };
  out.default_power_limit = [](Device, unsigned* mw) { return answer(mw, 700'000u); };
  out.pcie_generation = [](Device gpu, unsigned* generation) { return answer(generation, fake(gpu).generation); };
  out.most_pcie_generation = [](Device, unsigned* generation) { return answer(generation, 5u); };
  out.pcie_width = [](Device gpu, unsigned* width) { return answer(width, fake(gpu).width); };
  out.most_pcie_width = [](Device, unsigned* width) { return answer(width, 16u); };
  out.compute_mode = [](Device gpu, int* mode) { return answer(mode, fake(gpu).compute_mode); };
  out.mig_mode = [](Device, unsigned*, unsigned*) { return kNotSupported; };
  out.link_state = [](Device gpu, unsigned link, int* state) {
    return link < fake(gpu).links.size() ? answer(state, fake(gpu).links[link]) : 2;
  };
  out.link_remote = [](Device, unsigned, NvmlFunctions::Pci* pci) {
    pci->bus = 0xc0;  // a switch
    return 0;
  };
  out.link_errors = [](Device gpu, unsigned link, int counter, unsigned long long* errors) {
    return answer(errors, link == 3 && counter == 1 ? fake(gpu).recoveries : 0ull);
  };
  out.fields = [](Device, int count, NvmlFunctions::Field* field) {
    field->result = count == 1 && field->field == 164 ? 0 : kNotSupported;
    field->value.as_unsigned = 26562;
    return 0;
  };
  out.peer_status = [](Device, Device, int index, int* status) { return answer(status, index == 2 ? 0 : 1); };
  return out;
}

std::vector<device::DeviceInfo> two_h100() {
  std::vector<device::DeviceInfo> gpus;
  for (const unsigned i : {0u, 1u}) {
    gpus.push_back({.name = "cuda:" + std::to_string(i),
                    .model = "NVIDIA H100 80GB HBM3",
                    .total_bytes = 85'000'000'000,
                    .capability = 90,
                    .is_supported = true,
                    .address = {.domain = 0, .bus = 0x1b + i, .device = 0}});
  }
  return gpus;
}

/// All that is said of two H100s, `change`d, idle and while they work.
Items judged(const std::function<void(FakeGpu& first, FakeGpu& second)>& change) {
  fake_gpus = {FakeGpu{}, FakeGpu{}};
  fake_gpus[1].bus = 0x1c;
  change(fake_gpus[0], fake_gpus[1]);
  const Nvml nvml(fake_nvml());
  const std::vector<GpuState> states = nvml.gpus();
  const std::vector<check::Gpu> gpus = check::join(two_h100(), states);
  Items items = check::judge_lost(states, /*takes_all=*/true);
  for (Item& item : check::judge_idle(gpus)) items.push_back(std::move(item));
  for (const check::Gpu& gpu : gpus) {
    if (!gpu.state) continue;
    if (gpu.state->pcie) items.push_back(check::judge_pcie(gpu.name(), *gpu.state->pcie, /*is_busy=*/true));
    items.push_back(check::judge_clocks(gpu.name(), *gpu.state, /*is_busy=*/true));
  }
  return items;
}

struct Fault {
  const char* what;
  std::function<void(FakeGpu&, FakeGpu&)> plant;
  const char* item;
  Status status;
  const char* measured;
  const char* advice;
};

}  // namespace

TEST_CASE("two GPUs that are well have only short lines, all of them passed") {
  const Items items = judged([](FakeGpu&, FakeGpu&) {});
  CHECK(items.size() == 14);  // each: itself, memory, whose it is, ECC, NVLink, PCIe, clocks
  for (const Item& item : items) {
    CAPTURE(item.name);
    CHECK(item.status == Status::pass);
    CHECK(item.measured.size() <= 60);
    CHECK(item.expected.empty());
    CHECK(item.advice.empty());
  }
}

TEST_CASE("every planted fault of a GPU is one item with its own advice, and nothing else is blamed") {
  const std::vector<Fault> faults = {
      {"full",
       [](FakeGpu& gpu, FakeGpu&) {
         gpu.used = 84'800'000'000, gpu.processes = {{7, 84'790'000'000, 0, 0}};
       },
       "cuda:0 memory", Status::fail, "121 MB free of 85.5 GB, 84.8 GB held by a process", "wait for them"},
      {"half full",
       [](FakeGpu& gpu, FakeGpu&) {
         gpu.used = 40'000'000'000, gpu.processes = {{7, 39'999'000'000, 0, 0}};
       },
       "cuda:0 memory", Status::warn, "44.9 GB free", "--max-memory 44920MB"},
      {"held by no process", [](FakeGpu&, FakeGpu& gpu) { gpu.used = 900'000'000; }, "cuda:1 memory of no process",
       Status::warn, "900 MB", "nvidia-smi --gpu-reset -i 0000:1c:00.0"},
      {"a reset is due", [](FakeGpu& gpu, FakeGpu&) { gpu.remap_pending = 1; }, "cuda:0 ECC", Status::fail,
       "bad memory waits for a reset", "--gpu-reset -i 0000:1b:00.0"},
      {"no rows left", [](FakeGpu& gpu, FakeGpu&) { gpu.remap_failed = 1; }, "cuda:0 ECC", Status::fail,
       "could not be replaced", "have it replaced"},
      {"uncorrectable errors", [](FakeGpu& gpu, FakeGpu&) { gpu.uncorrected = 3; }, "cuda:0 ECC", Status::warn,
       "3 uncorrectable errors", "if they come again"},
      {"some retired pages", [](FakeGpu& gpu, FakeGpu&) { gpu.has_retired_pages = true, gpu.retired = 2; },
       "cuda:0 ECC", Status::warn, "2 pages retired", "watch it"},
      {"many retired pages", [](FakeGpu& gpu, FakeGpu&) { gpu.has_retired_pages = true, gpu.retired = 64; },
       "cuda:0 ECC", Status::fail, "64 pages retired", "have it replaced"},
      {"ECC is off", [](FakeGpu& gpu, FakeGpu&) { gpu.ecc = 0; }, "cuda:0 ECC", Status::warn, "off", "-e 1"},
      {"too hot", [](FakeGpu& gpu, FakeGpu&) { gpu.slowdown = 0x48, gpu.temperature = 91; }, "cuda:0 clocks",
       Status::warn, "91 C, slowed down: too hot", "fans"},
      {"power brake", [](FakeGpu& gpu, FakeGpu&) { gpu.slowdown = 0x88; }, "cuda:0 clocks", Status::warn,
       "the power supply asks for it", "power supplies"},
      {"hardware slowdown", [](FakeGpu& gpu, FakeGpu&) { gpu.slowdown = 0x8; }, "cuda:0 clocks", Status::warn,
       "by its hardware", "cooling"},
      {"limited power", [](FakeGpu& gpu, FakeGpu&) { gpu.power_limit = 400'000; }, "cuda:0 clocks", Status::warn,
       "limited to 400 W", "-pl 700"},
      {"clocks that are set", [](FakeGpu& gpu, FakeGpu&) { gpu.slowdown = 0x2, gpu.clock = 800; }, "cuda:0 clocks",
       Status::warn, "800 of 1980 MHz", "-rgc"},
      {"half the lanes", [](FakeGpu& gpu, FakeGpu&) { gpu.width = 8; }, "cuda:0 PCIe", Status::warn, "generation 5, x8",
       "reseat"},
      {"an old generation", [](FakeGpu& gpu, FakeGpu&) { gpu.generation = 3; }, "cuda:0 PCIe", Status::warn,
       "generation 3, x16", "reseat"},
      {"a link is down", [](FakeGpu& gpu, FakeGpu&) { gpu.links[4] = 0; }, "cuda:0 NVLink", Status::warn,
       "17 of 18 links active", "nvidia-smi nvlink -s -i 0000:1b:00.0"},
      {"all links are down", [](FakeGpu&, FakeGpu& gpu) { gpu.links.assign(18, 0); }, "cuda:1 NVLink", Status::warn,
       "no link is in use", "fabric manager"},
      {"a link with errors", [](FakeGpu& gpu, FakeGpu&) { gpu.recoveries = 12; }, "cuda:0 NVLink", Status::warn,
       "12 recoveries", "nvlink -e"},
      {"prohibited", [](FakeGpu& gpu, FakeGpu&) { gpu.compute_mode = 2; }, "cuda:0", Status::fail,
       "compute mode prohibited", "-c DEFAULT"},
      {"exclusive and in use",
       [](FakeGpu& gpu, FakeGpu&) {
         gpu.compute_mode = 3, gpu.processes = {{7, 1'000'000, 0, 0}};
       },
       "cuda:0", Status::fail, "compute mode exclusive, and in use", "-c DEFAULT"},
      {"fell off the bus", [](FakeGpu&, FakeGpu& gpu) { gpu.handle_result = 15; }, "NVML's GPU 1", Status::fail,
       "GPU is lost", "grep -i xid"},
  };
  for (const Fault& fault : faults) {
    CAPTURE(fault.what);
    int wrong = 0;
    for (const Item& item : judged(fault.plant)) {
      if (item.status == Status::pass) continue;
      ++wrong;
      CHECK(item.name == fault.item);
      CHECK(item.status == fault.status);
      CHECK_MESSAGE(item.measured.find(fault.measured) != std::string::npos, item.measured);
      CHECK_MESSAGE(item.advice.find(fault.advice) != std::string::npos, item.advice);
      CHECK(!item.expected.empty());
    }
    CHECK(wrong == 1);
  }
}

TEST_CASE("a GPU that is lost keeps a run from all of them, and is told to one that takes others") {
  std::vector<device::GpuState> states(2);
  states[1].lost = "GPU is lost";
  REQUIRE(check::judge_lost(states, /*takes_all=*/true).size() == 1);
  CHECK(check::judge_lost(states, /*takes_all=*/true)[0].status == Status::fail);
  CHECK(check::judge_lost(states, /*takes_all=*/false)[0].status == Status::warn);
}

TEST_CASE("an idle GPU may have a lower PCIe generation, and clocks") {
  judged([](FakeGpu& gpu, FakeGpu&) { gpu.generation = 1, gpu.clock = 345, gpu.slowdown = 1; });
  const Nvml nvml(fake_nvml());
  const GpuState idle = nvml.gpus().front();
  CHECK(idle.utilization == 37u);
  CHECK(check::judge_pcie("cuda:0", *idle.pcie, /*is_busy=*/false).status == Status::pass);
  CHECK(check::judge_pcie("cuda:0", *idle.pcie, /*is_busy=*/true).status == Status::warn);
  CHECK(check::judge_clocks("cuda:0", idle, /*is_busy=*/false).status == Status::pass);
}

TEST_CASE("a driver that tells little leaves little to say, and one that lies does no harm") {
  fake_gpus = {FakeGpu{}};
  NvmlFunctions few;
  const NvmlFunctions all = fake_nvml();
  few.init = all.init;
  few.shutdown = all.shutdown;
  few.count = all.count;
  few.by_index = all.by_index;
  few.pci = all.pci;
  const Nvml old(few);
  CHECK(old.driver_version().empty());
  const std::vector<GpuState> states = old.gpus();
  const std::vector<check::Gpu> gpus = check::join(two_h100(), states);
  CHECK(gpus[0].state.has_value());
  CHECK_FALSE(gpus[1].state.has_value());
  CHECK(check::judge_idle(gpus).size() == 2);
  CHECK(check::judge_clocks("cuda:0", *gpus[0].state, true).status == Status::skip);
  CHECK(check::way_between(gpus[0], gpus[1]).bytes_per_second == 0);

  NvmlFunctions lying = all;
  lying.count = [](unsigned* count) { return answer(count, 1u); };
  lying.processes = [](Device, unsigned* count, NvmlFunctions::Process*) { return answer(count, ~0u); };
  lying.link_state = [](Device, unsigned, int* state) { return answer(state, 1); };  // links without end
  const GpuState told = Nvml(lying).gpus().front();
  CHECK(told.name.size() == 96);
  CHECK_FALSE(told.processes.has_value());
  CHECK(told.links.size() == 36);
}

TEST_CASE("NVML that does not start says why, and what to do") {
  NvmlFunctions functions = fake_nvml();
  functions.init = [] { return NvmlFunctions::kVersionMismatch; };
  CHECK_THROWS_WITH_AS(Nvml{functions}, doctest::Contains("of another version than the kernel module"), Error);
  functions.init = [] { return NvmlFunctions::kDriverNotLoaded; };
  CHECK_THROWS_WITH_AS(Nvml{functions}, doctest::Contains("a problem (9)"), Error);
}

TEST_CASE("GPUs that have a switch between them share all their links, those without one the links to each other") {
  judged([](FakeGpu&, FakeGpu&) {});
  const Nvml nvml(fake_nvml());
  std::vector<check::Gpu> gpus = check::join(two_h100(), nvml.gpus());
  CHECK(check::way_between(gpus[0], gpus[1]).is_nvlink);
  CHECK(check::way_between(gpus[0], gpus[1]).bytes_per_second == doctest::Approx(18 * 26.562e9));
  for (std::size_t i = 0; i < 4; ++i) gpus[0].state->links[i].remote = gpus[1].state->address;
  CHECK(check::way_between(gpus[0], gpus[1]).bytes_per_second == doctest::Approx(4 * 26.562e9));
  gpus[0].state->nvlink_peers.clear();
  CHECK_FALSE(check::way_between(gpus[0], gpus[1]).is_nvlink);
  CHECK(check::way_between(gpus[0], gpus[1]).bytes_per_second == doctest::Approx(63e9).epsilon(0.01));
}

TEST_CASE("a GPU that is too old is named with what is needed") {
  std::vector<device::DeviceInfo> infos = two_h100();
  infos[1].capability = 75;
  infos[1].is_supported = false;
  const Items items = check::judge_idle(check::join(infos, {}));
  CHECK(items[0].status == Status::pass);
  CHECK(items[1].status == Status::fail);
  CHECK(items[1].measured.ends_with("compute capability 7.5"));
}

TEST_CASE("versions that do not fit, and libraries that are missing, are told") {
  check::Versions versions{.cuda = device::CudaLibraries{.driver = 13000,
                                                         .runtime = 13010,
                                                         .cublaslt = {.version = "13.1.0", .problem = {}},
                                                         .nccl = {.version = "2.28.9", .problem = {}}},
                           .driver = "580.95.05",
                           .hdf5 = "1.10.8"};
  for (const Item& item : check::judge_versions(versions, 2, false)) CHECK(item.status == Status::pass);
  versions.cuda->driver = 12080;
  versions.cuda->cublaslt = {.version = {}, .problem = "not found beside the program"};
  versions.cuda->nccl = {.version = {}, .problem = "not found either"};
  const Items items = check::judge_versions(versions, 2, /*needs_nccl=*/false);
  CHECK(items[0].status == Status::fail);
  CHECK(items[0].measured == "580.95.05, for CUDA 12.8");
  CHECK(items[0].expected == "for CUDA 13.0 or later");
  CHECK(items[2].status == Status::fail);
  CHECK(items[2].advice.starts_with("pip install nvidia-cublas"));
  CHECK(items[3].status == Status::warn);
  const Items by_nccl = check::judge_versions(versions, 2, /*needs_nccl=*/true);
  CHECK(by_nccl[3].status == Status::fail);
  CHECK(by_nccl[3].advice.ends_with("or leave --transport nccl out"));
  CHECK(check::judge_versions(versions, 1, false)[3].status == Status::skip);
  CHECK(check::judge_versions(versions, 0, false)[0].status == Status::skip);
}

}  // namespace layerprobe
