#include "device/cuda/nccl.h"

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <thread>

#include "base/error.h"
#include "base/text.h"
#include "device/cuda/context.h"
#include "device/cuda/cublaslt.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmUps = 2, kRounds = 10;
constexpr auto kMostTime = std::chrono::seconds(60);

constexpr std::size_t kPeriod = 1009;

/// What GPU number `rank` puts in: small integers, whose sums are exact.
float addend(std::size_t i, std::size_t rank) { return static_cast<float>(i % kPeriod + rank); }

/// A GPU's part of the sum.
struct Rank {
  Rank(int index, std::size_t count) : gpu(index), context(index), sum(context.allocate(count * sizeof(float))) {}

  int gpu;
  Context context;
  Buffer sum, x{};
};

void reduce(const Nccl& nccl, const std::vector<std::unique_ptr<Rank>>& ranks,
            const std::vector<std::unique_ptr<void, Nccl::Result (*)(Nccl::Communicator)>>& communicators,
            std::size_t count) {
  nccl.check(nccl.group_start(), "begin a sum over the GPUs");
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    nccl.check(nccl.all_reduce(ranks[i]->x.data(), ranks[i]->sum.data(), count, Nccl::kFloat32, Nccl::kSum,
                               communicators[i].get(), ranks[i]->context.stream()),
               "sum over the GPUs");
  }
  nccl.check(nccl.group_end(), "sum over the GPUs");
}

/// Whether all have done what they were given before the time is up.
bool have_finished(const std::vector<std::unique_ptr<Rank>>& ranks) {
  const Clock::time_point end = Clock::now() + kMostTime;
  for (const auto& rank : ranks) {
    rank->context.use();
    cudaError_t status = cudaErrorNotReady;
    while ((status = cudaStreamQuery(rank->context.stream())) == cudaErrorNotReady) {
      if (Clock::now() > end) return false;
      std::this_thread::yield();
    }
    kernels::check(status, text("sum over the GPUs, on ", rank->context.name()));
  }
  return true;
}

CudaLibraries::Found found(auto&& version) {
  try {
    return {.version = version(), .problem = {}};
  } catch (const Error& error) {
    return {.version = {}, .problem = error.parts().what};
  }
}

}  // namespace

Nccl::Nccl() : library_("libnccl.so.2") {
  // NVLink's multicast stays out of it unless the user wants it: layerprobe does not use it, and where the fabric does
  // not bear it a program that asks for it can leave the GPUs unusable.
  ::setenv("NCCL_NVLS_ENABLE", "0", /*replace=*/0);
  library_.find(all_reduce, "ncclAllReduce");
  library_.find(send, "ncclSend");
  library_.find(receive, "ncclRecv");
  library_.find(group_start, "ncclGroupStart");
  library_.find(group_end, "ncclGroupEnd");
  library_.find(abandon, "ncclCommAbort");
  library_.find(get_version_, "ncclGetVersion");
  library_.find(init_all_, "ncclCommInitAll");
  library_.find(destroy_, "ncclCommDestroy");
  library_.find(error_string_, "ncclGetErrorString");
}

std::string Nccl::version() const {
  int version = 0;  // 22809; before 2.9: 2804
  check(get_version_(&version), "ask for NCCL's version");
  const int major = version < 10000 ? 1000 : 10000;
  return text(version / major, ".", version % major / 100, ".", version % 100);
}

std::vector<std::unique_ptr<void, Nccl::Result (*)(Nccl::Communicator)>> Nccl::communicators(
    std::span<const int> gpus) const {
  std::vector<Communicator> made(gpus.size());
  check(init_all_(made.data(), static_cast<int>(gpus.size()), gpus.data()), "start NCCL");
  std::vector<std::unique_ptr<void, Result (*)(Communicator)>> out;
  for (const Communicator each : made) out.emplace_back(each, destroy_);
  return out;
}

void Nccl::check(Result result, std::string_view doing) const {
  if (result == 0) return;
  throw Error({.kind = ErrorKind::device,
               .where = std::string(doing),
               .what = text("NCCL ", version(), ": ", error_string_(result)),
               .fix = "run again with NCCL_DEBUG=INFO, which says why"});
}

AllReduce all_reduce(std::span<const int> gpus, std::size_t bytes) {
  const Nccl nccl;
  AllReduce out{.version = nccl.version()};
  const std::size_t count = bytes / sizeof(float);
  std::vector<std::unique_ptr<Rank>> ranks;
  std::vector<float> values(count);
  for (const int gpu : gpus) {
    ranks.push_back(std::make_unique<Rank>(gpu, count));
    for (std::size_t i = 0; i < count; ++i) values[i] = addend(i, ranks.size() - 1);
    ranks.back()->context.use();
    ranks.back()->x = ranks.back()->context.upload(std::span<const float>(values));
  }
  auto communicators = nccl.communicators(gpus);
  const auto stop = [&]() -> Error {
    for (auto& each : communicators) nccl.abandon(each.release());
    return Error({.kind = ErrorKind::device,
                  .where = "sum over the GPUs",
                  .what = text("NCCL ", out.version, " has not finished after ", kMostTime.count(), " s"),
                  .fix = "try NCCL_P2P_DISABLE=1; NCCL_DEBUG=INFO says which way it takes between the GPUs"});
  };
  for (int i = 0; i < kWarmUps; ++i) reduce(nccl, ranks, communicators, count);
  if (!have_finished(ranks)) throw stop();
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < kRounds; ++i) reduce(nccl, ranks, communicators, count);
  if (!have_finished(ranks)) throw stop();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count() / kRounds;
  const auto n = static_cast<double>(gpus.size());
  out.bytes_per_second = static_cast<double>(count * sizeof(float)) / seconds * 2 * (n - 1) / n;

  for (const auto& rank : ranks) {
    rank->context.use();
    kernels::check(cudaMemcpy(values.data(), rank->sum.data(), count * sizeof(float), cudaMemcpyDeviceToHost),
                   text("copy from ", rank->context.name()));
    for (std::size_t i = 0; i < count && out.wrong.empty(); ++i) {
      const auto due = static_cast<float>(ranks.size() * (i % kPeriod) + ranks.size() * (ranks.size() - 1) / 2);
      if (values[i] == due) continue;
      out.wrong = text(rank->context.name(), " has ", values[i], " for element ", i, " where ", due, " is due");
    }
  }
  return out;
}

CudaLibraries libraries() {
  CudaLibraries out;
  cudaDriverGetVersion(&out.driver);
  cudaRuntimeGetVersion(&out.runtime);
  cudaGetLastError();
  out.cublaslt = found([] { return CublasLt().version(); });
  out.nccl = found([] { return Nccl().version(); });
  return out;
}

}  // namespace layerprobe::device::cuda
