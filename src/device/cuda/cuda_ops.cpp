#include "device/cuda/cuda_ops.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "device/arguments.h"
#include "device/cuda/attention.h"
#include "device/cuda/context.h"
#include "device/cuda/fp8_weights.h"
#include "device/cuda/loader.h"
#include "device/cuda/matmul.h"
#include "device/cuda/nccl_channel.h"
#include "device/cuda/side_copies.h"
#include "device/cuda/statistics.h"
#include "kernels/add.h"
#include "kernels/check.h"
#include "kernels/combine_experts.h"
#include "kernels/embedding.h"
#include "kernels/expand.h"
#include "kernels/group_by_expert.h"
#include "kernels/mean_rows.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/route_tokens.h"
#include "kernels/silu_mul.h"

namespace layerprobe::device::cuda {
namespace {

// For what is not asked of allocate: the trials of products, statistics, weights on their way.
constexpr std::uint64_t kReservedBytes = std::uint64_t{384} << 20;
constexpr std::size_t kMostWaitingBytes = std::size_t{64} << 20;  // of statistics, before a call waits for them

kernels::Matrix matrix_of(const Tensor& tensor) { return {tensor.data, tensor.row_stride}; }

std::size_t bytes_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.rows * tensor.columns) * size_of(tensor.dtype);
}

class CudaMark : public Mark {
 public:
  /// Made when the operations' stream has been given all that it stands for.
  CudaMark(const Context& context, SideCopies& copies, StatisticsQueue& statistics)
      : context_(context), statistics_(statistics), waiting_(statistics.take()) {
    copies.follow_operations();
    passed_ = context.record(copies.stream());
  }
  ~CudaMark() override {
    if (waiting_.empty()) return;
    cudaEventSynchronize(passed_.get());  // the blocks are being written
    statistics_.discard(std::move(waiting_));
  }
  CudaMark(const CudaMark&) = delete;
  CudaMark& operator=(const CudaMark&) = delete;

  void wait() override {
    context_.use();
    kernels::check(cudaEventSynchronize(passed_.get()), text("run on ", context_.name()));
    statistics_.deliver(std::exchange(waiting_, {}));
  }

 private:
  const Context& context_;
  StatisticsQueue& statistics_;
  std::vector<StatisticsQueue::Waiting> waiting_;
  Event passed_;
};

class CudaMoment : public Moment {
 public:
  explicit CudaMoment(Event event) { events_.push_back(std::move(event)); }

  void also(Event event) { events_.push_back(std::move(event)); }
  /// Lets what `stream` does next wait for it.
  void precede(cudaStream_t stream) const {
    for (const Event& event : events_) kernels::check(cudaStreamWaitEvent(stream, event.get()), "order work of GPUs");
  }
  void wait() const override {
    for (const Event& event : events_) kernels::check(cudaEventSynchronize(event.get()), "wait for a GPU");
  }

 private:
  std::vector<Event> events_;
};

/// Of a moment, if there is one.
void let_precede(const Moment* moment, cudaStream_t stream) {
  if (moment == nullptr) return;
  const auto* of_gpu = dynamic_cast<const CudaMoment*>(moment);
  if (of_gpu != nullptr) return of_gpu->precede(stream);
  moment->wait();  // of the host's processors
}

class CudaStopwatch : public Stopwatch {
 public:
  explicit CudaStopwatch(const Context& context) : context_(context) {}

  void start() override { spans_.push_back({.begin = now(), .end = {}}); }
  void stop() override { spans_.back().end = now(); }
  double seconds() override {
    double seconds = 0;
    for (const Span& span : spans_) {
      float milliseconds = 0;
      if (span.end.get() == nullptr) continue;
      kernels::check(cudaEventElapsedTime(&milliseconds, span.begin.get(), span.end.get()), "measure time");
      seconds += milliseconds / 1e3;
    }
    return seconds;
  }

 private:
  struct Span {
    Event begin, end;
  };
  Event now() const {
    context_.use();
    Event event;
    kernels::check(cudaEventCreate(event.out()), "measure time");
    kernels::check(cudaEventRecord(event.get(), context_.stream()), "measure time");
    return event;
  }

  const Context& context_;
  std::vector<Span> spans_;
};

class CudaOps : public Ops {
 public:
  CudaOps(int index, const DeviceOptions& options)
      : context_(index),
        kernels_capability_(std::min(context_.capability(), options.newest_capability)),
        loader_(context_),
        matmuls_(context_, options.cache_folder),
        attention_(context_, kernels_capability_),
        copies_(context_),
        statistics_(context_, copies_) {}
  ~CudaOps() override {  // copies may still be on their way
    cudaStreamSynchronize(context_.stream());
    cudaStreamSynchronize(copies_.stream());
    if (to_gpus_) cudaStreamSynchronize(to_gpus_->stream());
    if (arrivals_.get() != nullptr) cudaStreamSynchronize(arrivals_.get());
  }

  std::string name() const override { return context_.name(); }
  std::string code_path() const override {
    return text("cuda ", context_.model(), ", kernels of compute capability ", kernels_capability_ / 10, ".",
                kernels_capability_ % 10, ", products by ", matmuls_.library());
  }
  void synchronize() override;

  Buffer allocate(std::size_t bytes) override;
  std::uint64_t free_bytes() override;
  void copy_from_host(const Tensor& out, const void* host) override;
  void copy_to_host(void* host, const Tensor& x) override;
  Buffer allocate_on_host(std::size_t bytes) override { return context_.allocate_on_host(bytes); }
  void start_copy_to_host(void* host, const Tensor& x) override;
  std::unique_ptr<Mark> mark() override;
  std::unique_ptr<Moment> moment() override;
  void follow(const Moment& moment) override;
  Buffer allocate_shared(std::size_t bytes) override { return context_.allocate_for_peers(bytes); }
  std::unique_ptr<Moment> start_copy_from_host(const Tensor& out, const void* host, const Moment* after) override;
  bool reaches(const Ops& other) const override;
  std::unique_ptr<Moment> send(const Send& args) override;
  std::unique_ptr<Channel> nccl_channel(const Ops& receiver) override;
  std::unique_ptr<Stopwatch> stopwatch() override { return std::make_unique<CudaStopwatch>(context_); }
  MemoryUse memory_use() const override { return context_.memory_use(); }
  CaptureResources capture_resources() override;
  bool keeps_fp8() const override { return true; }
  bool multiply_fp8() override;
  void reserve(std::size_t bytes) override;
  void load(const Load& args) override;
  std::unique_ptr<MatMulWeight> matmul_weight(const MatMulWeightParts& parts) override;
  std::unique_ptr<ExpertWeights> expert_weights(const ExpertWeightsParts& parts) override;
  std::unique_ptr<Loads> start_loads() override;
  std::unique_ptr<Loads> start_copies(const Ops& donor) override;
  std::string matmul_choices(std::span<const MatMulShape> shapes) override;
  void use_matmul_choices(std::string_view choices) override;
  void matmul(const MatMul& args) override;
  void embedding(const Embedding& args) override;
  void rms_norm(const RmsNorm& args) override;
  void add_rms_norm(const AddRmsNorm& args) override;
  void rope(const Rope& args) override;
  void attention(const Attention& args) override;
  void silu_mul(const SiluMul& args) override;
  void add(const Add& args) override;
  void expand(const Expand& args) override;
  void route_tokens(const RouteTokens& args) override;
  void group_by_expert(const GroupByExpert& args) override;
  void gather_rows(const GatherRows& args) override;
  void expert_matmul(const ExpertMatMul& args) override;
  void combine_experts(const CombineExperts& args) override;
  void append_statistics(const AppendStatistics& args) override;
  void mean_rows(const MeanRows& args) override;

 private:
  void begin_writing(std::initializer_list<Tensor> outs);

  Context context_;
  const int kernels_capability_;
  Loader loader_;
  MatMuls matmuls_;
  cuda::Attention attention_;
  SideCopies copies_;
  StatisticsQueue statistics_;
  std::optional<SideCopies> to_gpus_;  // once there is something to send
  Stream arrivals_;                    // that copies from the host go on beside operations, once there are any
};

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

void CudaOps::matmul(const MatMul& args) {
  begin_writing({args.out});
  matmuls_.multiply(args);
}

void CudaOps::embedding(const Embedding& args) {
  check(args);
  begin_writing({args.out});
  const Buffer input_ids = context_.upload(args.input_ids);
  kernels::embedding({.out = matrix_of(args.out),
                      .weight = matrix_of(args.weight),
                      .input_ids = static_cast<const std::int32_t*>(input_ids.data()),
                      .num_tokens = args.out.rows,
                      .hidden_size = args.out.columns,
                      .dtype = args.out.dtype == Dtype::i32 ? Dtype::f32 : args.out.dtype},  // copied as they are
                     context_.stream());
}

void CudaOps::rms_norm(const RmsNorm& args) {
  check(args);
  begin_writing({args.out});
  kernels::rms_norm({.out = matrix_of(args.out),
                     .hidden_states = matrix_of(args.hidden_states),
                     .weight = args.weight.data,
                     .num_tokens = args.out.rows,
                     .num_groups = args.out.columns / args.weight.columns,
                     .group_size = args.weight.columns,
                     .rms_norm_eps = args.rms_norm_eps,
                     .dtype = args.out.dtype},
                    context_.stream());
}

void CudaOps::add_rms_norm(const AddRmsNorm& args) {
  check(args);
  begin_writing({args.sum, args.normed});
  kernels::rms_norm({.out = matrix_of(args.normed),
                     .hidden_states = matrix_of(args.a),
                     .weight = args.weight.data,
                     .num_tokens = args.sum.rows,
                     .num_groups = 1,
                     .group_size = args.sum.columns,
                     .rms_norm_eps = args.rms_norm_eps,
                     .dtype = args.sum.dtype,
                     .added = matrix_of(args.b),
                     .sum = matrix_of(args.sum)},
                    context_.stream());
}

void CudaOps::rope(const Rope& args) {
  check(args);
  begin_writing({args.x});
  kernels::rope({.x = matrix_of(args.x),
                 .cos = matrix_of(args.cos),
                 .sin = matrix_of(args.sin),
                 .num_tokens = args.x.rows,
                 .num_heads = args.x.columns / args.head_dim,
                 .head_dim = args.head_dim,
                 .half = args.cos.columns,
                 .dtype = args.x.dtype},
                context_.stream());
}

void CudaOps::attention(const Attention& args) {
  check(args);
  begin_writing({args.out});
  attention_.run(args);
}

void CudaOps::silu_mul(const SiluMul& args) {
  check(args);
  begin_writing({args.out});
  kernels::silu_mul({.out = matrix_of(args.out),
                     .gate = matrix_of(args.gate),
                     .up = args.up.data == nullptr ? kernels::Matrix{} : matrix_of(args.up),
                     .num_tokens = args.out.rows,
                     .intermediate_size = args.out.columns,
                     .dtype = args.out.dtype},
                    context_.stream());
}

void CudaOps::add(const Add& args) {
  check(args);
  begin_writing({args.out});
  kernels::add({.out = matrix_of(args.out),
                .a = matrix_of(args.a),
                .b = matrix_of(args.b),
                .num_rows = args.out.rows,
                .columns = args.out.columns,
                .dtype = args.out.dtype},
               context_.stream());
}

void CudaOps::expand(const Expand& args) {
  check(args);
  begin_writing({args.out});
  kernels::expand({.out = matrix_of(args.out),
                   .x = matrix_of(args.x),
                   .num_rows = args.x.rows,
                   .columns = args.x.columns,
                   .dtype = args.x.dtype},
                  context_.stream());
}

void CudaOps::route_tokens(const RouteTokens& args) {
  check(args);
  begin_writing({args.topk_indices, args.topk_weights});
  kernels::route_tokens({.topk_indices = matrix_of(args.topk_indices),
                         .topk_weights = matrix_of(args.topk_weights),
                         .router_logits = matrix_of(args.router_logits),
                         .selection_bias = args.selection_bias.data,
                         .num_tokens = args.router_logits.rows,
                         .num_experts = args.router_logits.columns,
                         .num_choices = args.topk_indices.columns,
                         .is_sigmoid = args.scores == Scores::sigmoid,
                         .normalizes = args.normalizes,
                         .rounds_weights = args.rounds_weights,
                         .dtype = args.router_logits.dtype},
                        context_.stream());
}

// The products need their numbers of rows on the host. While those come and the first product is launched the GPU is
// idle: some microseconds a layer, where the experts of a large batch take milliseconds.
void CudaOps::group_by_expert(const GroupByExpert& args) {
  check(args);
  begin_writing({args.row_of_choice, args.token_of_row});
  const auto num_experts = static_cast<std::int64_t>(args.first_rows.size()) - 1;
  kernels::GroupByExpert call{.row_of_choice = matrix_of(args.row_of_choice),
                              .token_of_row = matrix_of(args.token_of_row),
                              .topk_indices = matrix_of(args.topk_indices),
                              .first_rows = nullptr,
                              .tile_counts = nullptr,
                              .num_tokens = args.topk_indices.rows,
                              .num_choices = args.topk_indices.columns,
                              .num_experts = num_experts};
  const Buffer first_rows = context_.allocate(args.first_rows.size() * sizeof(std::int32_t));
  const Buffer tile_counts =
      context_.allocate(static_cast<std::size_t>(call.num_tiles() * num_experts) * sizeof(std::int32_t));
  call.first_rows = static_cast<std::int32_t*>(first_rows.data());
  call.tile_counts = static_cast<std::int32_t*>(tile_counts.data());
  kernels::group_by_expert(call, context_.stream());
  std::vector<std::int32_t> on_host(args.first_rows.size());
  copy_to_host(on_host.data(), Tensor::contiguous(first_rows.data(), Dtype::i32, 1, num_experts + 1));
  std::ranges::copy(on_host, args.first_rows.begin());
}

void CudaOps::gather_rows(const GatherRows& args) {
  check(args);
  begin_writing({args.out});
  kernels::embedding({.out = matrix_of(args.out),
                      .weight = matrix_of(args.x),
                      .input_ids = static_cast<const std::int32_t*>(args.rows.data),
                      .num_tokens = args.out.rows,
                      .hidden_size = args.out.columns,
                      .dtype = args.out.dtype},
                     context_.stream());
}

void CudaOps::expert_matmul(const ExpertMatMul& args) {
  begin_writing({args.out});
  matmuls_.multiply_experts(args);
}

void CudaOps::combine_experts(const CombineExperts& args) {
  check(args);
  begin_writing({args.out});
  kernels::combine_experts({.out = matrix_of(args.out),
                            .expert_outputs = matrix_of(args.expert_outputs),
                            .row_of_choice = matrix_of(args.row_of_choice),
                            .topk_weights = matrix_of(args.topk_weights),
                            .num_tokens = args.out.rows,
                            .num_choices = args.row_of_choice.columns,
                            .hidden_size = args.out.columns,
                            .rounds_products = args.rounds_products,
                            .dtype = args.out.dtype},
                           context_.stream());
}

void CudaOps::append_statistics(const AppendStatistics& args) {
  check(args);
  if (statistics_.waiting_bytes() > kMostWaitingBytes) synchronize();
  context_.use();
  statistics_.add(args);
}

void CudaOps::mean_rows(const MeanRows& args) {
  check(args);
  begin_writing({args.out});
  const Buffer cu_seqlens = context_.upload(args.cu_seqlens);
  kernels::mean_rows({.out = matrix_of(args.out),
                      .x = matrix_of(args.x),
                      .cu_seqlens = static_cast<const std::int64_t*>(cu_seqlens.data()),
                      .num_prompts = args.out.rows,
                      .columns = args.out.columns,
                      .dtype = args.x.dtype},
                     context_.stream());
}

}  // namespace

std::unique_ptr<Ops> cuda_ops(int index, const DeviceOptions& options) {
  return std::make_unique<CudaOps>(index, options);
}

}  // namespace layerprobe::device::cuda
