#include "device/cuda/cuda_ops.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "device/arguments.h"
#include "device/cuda/fp8_weights.h"
#include "device/cuda/gpus.h"
#include "device/cuda/nccl_channel.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

// For what is not asked of allocate: the trials of products, statistics, weights on their way.
constexpr std::uint64_t kReservedBytes = std::uint64_t{384} << 20;

std::size_t bytes_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.rows * tensor.columns) * size_of(tensor.dtype);
}

}  // namespace

CudaOps::CudaOps(int index, const DeviceOptions& options)
    : context_(index),
      kernels_capability_(std::min(context_.capability(), options.newest_capability)),
      loader_(context_),
      matmuls_(context_, options.cache_folder),
      attention_(context_, kernels_capability_),
      copies_(context_),
      statistics_(context_, copies_) {}

CudaOps::~CudaOps() {  // copies may still be on their way
  cudaStreamSynchronize(context_.stream());
  cudaStreamSynchronize(copies_.stream());
  if (to_gpus_) cudaStreamSynchronize(to_gpus_->stream());
  if (arrivals_.get() != nullptr) cudaStreamSynchronize(arrivals_.get());
}

std::string CudaOps::code_path() const {
  return text("cuda ", context_.model(), ", kernels of compute capability ", kernels_capability_ / 10, ".",
              kernels_capability_ % 10, ", products by ", matmuls_.library());
}

/// Every operation begins so: what it writes may still be on its way to the host.
void CudaOps::begin_writing(std::initializer_list<Tensor> outs) {
  context_.use();
  for (const Tensor& out : outs) copies_.before_write(out);
  copies_.operations_queued();
  if (!to_gpus_) return;
  for (const Tensor& out : outs) to_gpus_->before_write(out);
  to_gpus_->operations_queued();
}

void CudaOps::synchronize() {
  context_.use();
  context_.synchronize();
  kernels::check(cudaStreamSynchronize(copies_.stream()), text("copy from ", name()));
  statistics_.deliver(statistics_.take());
}

Buffer CudaOps::allocate(std::size_t bytes) {
  context_.use();
  return context_.allocate(bytes, [this, bytes](void* data) {
    copies_.before_write(data, bytes);
    if (to_gpus_) to_gpus_->before_write(data, bytes);
  });
}

std::uint64_t CudaOps::free_bytes() {
  context_.use();
  const std::uint64_t free = context_.free_bytes();
  return free - std::min(free, kReservedBytes);
}

void CudaOps::copy_from_host(const Tensor& out, const void* host) {
  check_tensor("copy_from_host", "out", out, Elements::any);
  begin_writing({out});
  context_.copy_from_host(out, host);
}

void CudaOps::copy_to_host(void* host, const Tensor& x) {
  check_tensor("copy_to_host", "x", x, Elements::any);
  if (x.rows == 0) return;
  context_.use();
  const std::size_t row_bytes = static_cast<std::size_t>(x.columns) * size_of(x.dtype);
  const std::size_t pitch = x.rows == 1 ? row_bytes : static_cast<std::size_t>(x.row_stride) * size_of(x.dtype);
  kernels::check(cudaMemcpy2DAsync(host, row_bytes, x.data, pitch, row_bytes, static_cast<std::size_t>(x.rows),
                                   cudaMemcpyDeviceToHost, context_.stream()),
                 text("copy from ", name()));
  context_.synchronize();
}

void CudaOps::start_copy_to_host(void* host, const Tensor& x) {
  check_tensor("start_copy_to_host", "x", x, Elements::any);
  context_.use();
  copies_.start(host, x);
}

std::unique_ptr<Mark> CudaOps::mark() {
  context_.use();
  return std::make_unique<CudaMark>(context_, copies_, statistics_);
}

std::unique_ptr<Moment> CudaOps::moment() {
  context_.use();
  auto moment = std::make_unique<CudaMoment>(context_.record(context_.stream()));
  if (copies_.is_busy()) moment->also(context_.record(copies_.stream()));
  if (to_gpus_ && to_gpus_->is_busy()) moment->also(context_.record(to_gpus_->stream()));
  return moment;
}

void CudaOps::follow(const Moment& moment) {
  context_.use();
  let_precede(&moment, context_.stream());
  copies_.operations_queued();
  if (to_gpus_) to_gpus_->operations_queued();
}

std::unique_ptr<Moment> CudaOps::start_copy_from_host(const Tensor& out, const void* host, const Moment* after) {
  check_tensor("start_copy_from_host", "out", out);
  context_.use();
  if (arrivals_.get() == nullptr) {
    kernels::check(cudaStreamCreateWithFlags(arrivals_.out(), cudaStreamNonBlocking),
                   text("make a stream on ", name()));
  }
  let_precede(after, arrivals_.get());
  kernels::check(cudaMemcpyAsync(out.data, host, bytes_of(out), cudaMemcpyHostToDevice, arrivals_.get()),
                 text("copy to ", name()));
  return std::make_unique<CudaMoment>(context_.record(arrivals_.get()));
}

bool CudaOps::reaches(const Ops& other) const {
  const auto* receiver = dynamic_cast<const CudaOps*>(&other);
  if (receiver == nullptr) return false;
  context_.use();
  int can = 0;
  if (cudaDeviceCanAccessPeer(&can, context_.index(), receiver->context_.index()) != cudaSuccess || can == 0) {
    cudaGetLastError();  // the runtime keeps it, and would give it to the next launch
    return false;
  }
  const cudaError_t status = cudaDeviceEnablePeerAccess(receiver->context_.index(), 0);
  if (status != cudaSuccess) cudaGetLastError();
  return status == cudaSuccess || status == cudaErrorPeerAccessAlreadyEnabled;
}

std::unique_ptr<Moment> CudaOps::send(const Send& args) {
  check_tensor("send", "x", args.x);
  const auto* receiver = dynamic_cast<const CudaOps*>(&args.receiver);
  expect(receiver != nullptr, "a GPU sends to a GPU");
  context_.use();
  if (!to_gpus_) to_gpus_.emplace(context_);
  if (auto* const channel = dynamic_cast<NcclChannel*>(args.channel)) {
    let_precede(args.after, channel->receiving());
    return std::make_unique<CudaMoment>(to_gpus_->start_by_nccl(*channel, args.out.data, args.x));
  }
  let_precede(args.after, to_gpus_->stream());
  to_gpus_->start_to_gpu(receiver->context_.index(), args.out.data, args.x);
  return std::make_unique<CudaMoment>(context_.record(to_gpus_->stream()));
}

std::unique_ptr<Channel> CudaOps::nccl_channel(const Ops& receiver) {
  const auto* other = dynamic_cast<const CudaOps*>(&receiver);
  return other == nullptr ? nullptr : std::make_unique<NcclChannel>(context_, other->context_);
}

Ops::CaptureResources CudaOps::capture_resources() {
  // Some layers of a batch, so that a writer may pause; half of the cores bring 20 GB/s to a file in memory.
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  return {.ring_bytes = std::size_t{1} << 30, .writers = std::clamp(cores / 2, 1, 8)};
}

/// Hopper alone has products of that form.
bool CudaOps::multiply_fp8() {
  if (context_.capability() != 90) return false;
  matmuls_.multiply_fp8();
  return true;
}

void CudaOps::reserve(std::size_t bytes) {
  context_.use();
  context_.reserve(bytes);
}

void CudaOps::load(const Load& args) {
  check(args);
  begin_writing({args.out});
  if (args.values.scales) return load_by_host(context_, args.out, args.values);
  loader_.add(args.out, args.values);
}

std::unique_ptr<MatMulWeight> CudaOps::matmul_weight(const MatMulWeightParts& parts) {
  check(parts);
  context_.use();
  return matmuls_.weight(parts, loader_);
}

std::unique_ptr<ExpertWeights> CudaOps::expert_weights(const ExpertWeightsParts& parts) {
  check(parts);
  context_.use();
  return matmuls_.expert_weights(parts, loader_);
}

std::unique_ptr<Loads> CudaOps::start_loads() {
  context_.use();
  return loader_.start();
}

std::unique_ptr<Loads> CudaOps::start_copies(const Ops& donor) {
  const auto* from = dynamic_cast<const CudaOps*>(&donor);
  if (from == nullptr || !context_.opens(from->context_)) return nullptr;
  context_.use();
  return loader_.start_copies(from->loader_);
}

std::string CudaOps::matmul_choices(std::span<const MatMulShape> shapes) {
  context_.use();
  return matmuls_.choices(shapes);
}

void CudaOps::use_matmul_choices(std::string_view choices) { matmuls_.use_choices(choices); }

std::unique_ptr<Ops> cuda_ops(int index, const DeviceOptions& options) {
  return std::make_unique<CudaOps>(index, options);
}

}  // namespace layerprobe::device::cuda
