#include "device/cuda/cuda_ops.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "device/arguments.h"
#include "device/cuda/attention.h"
#include "device/cuda/context.h"
#include "device/cuda/loader.h"
#include "device/cuda/matmul.h"
#include "device/cuda/statistics.h"
#include "kernels/add.h"
#include "kernels/check.h"
#include "kernels/embedding.h"
#include "kernels/mean_rows.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/silu_mul.h"

namespace layerprobe::device::cuda {
namespace {

constexpr std::size_t kMostWaitingBytes = std::size_t{64} << 20;  // of statistics, before a call waits for them

kernels::Matrix matrix_of(const Tensor& tensor) { return {tensor.data, tensor.row_stride}; }

class CudaOps : public Ops {
 public:
  CudaOps(int index, const DeviceOptions& options)
      : context_(index),
        kernels_capability_(std::min(context_.capability(), options.newest_capability)),
        loader_(context_),
        matmuls_(context_, options.cache_folder),
        attention_(context_, kernels_capability_),
        statistics_(context_) {}
  ~CudaOps() override { cudaStreamSynchronize(context_.stream()); }  // statistics may still be on their way

  std::string name() const override { return context_.name(); }
  std::string code_path() const override {
    return text("cuda ", context_.model(), ", kernels of compute capability ", kernels_capability_ / 10, ".",
                kernels_capability_ % 10, ", products by ", matmuls_.library());
  }
  // Products run within 2% of their best rate from 4,096 tokens on, attention needs as many tiles as it can get.
  std::int64_t good_batch_tokens() const override { return 8192; }
  void synchronize() override;

  Buffer allocate(std::size_t bytes) override;
  std::uint64_t free_bytes() override;
  void copy_from_host(const Tensor& out, const void* host) override;
  void copy_to_host(void* host, const Tensor& x) override;
  void reserve(std::size_t bytes) override;
  void load(const Load& args) override;
  std::unique_ptr<MatMulWeight> matmul_weight(const MatMulWeightParts& parts) override;
  void finish_loads(const std::function<void(std::uint64_t bytes)>& read) override;
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
  void append_statistics(const AppendStatistics& args) override;
  void mean_rows(const MeanRows& args) override;

 private:
  Context context_;
  const int kernels_capability_;
  Loader loader_;
  MatMuls matmuls_;
  cuda::Attention attention_;
  StatisticsQueue statistics_;
};

void CudaOps::synchronize() {
  context_.use();
  context_.synchronize();
  statistics_.deliver();
}

Buffer CudaOps::allocate(std::size_t bytes) {
  context_.use();
  return context_.allocate(bytes);
}

std::uint64_t CudaOps::free_bytes() {
  context_.use();
  return context_.free_bytes();
}

void CudaOps::copy_from_host(const Tensor& out, const void* host) {
  check_tensor("copy_from_host", "out", out);
  context_.use();
  context_.copy_from_host(out, host);
}

void CudaOps::copy_to_host(void* host, const Tensor& x) {
  check_tensor("copy_to_host", "x", x);
  if (x.rows == 0) return;
  context_.use();
  const std::size_t row_bytes = static_cast<std::size_t>(x.columns) * size_of(x.dtype);
  const std::size_t pitch = x.rows == 1 ? row_bytes : static_cast<std::size_t>(x.row_stride) * size_of(x.dtype);
  kernels::check(cudaMemcpy2DAsync(host, row_bytes, x.data, pitch, row_bytes, static_cast<std::size_t>(x.rows),
                                   cudaMemcpyDeviceToHost, context_.stream()),
                 text("copy from ", name()));
  context_.synchronize();
}

void CudaOps::reserve(std::size_t bytes) {
  context_.use();
  context_.reserve(bytes);
}

void CudaOps::load(const Load& args) {
  check(args);
  loader_.add(args.out, args.values);
}

std::unique_ptr<MatMulWeight> CudaOps::matmul_weight(const MatMulWeightParts& parts) {
  check(parts);
  context_.use();
  return matmuls_.weight(parts, loader_);
}

void CudaOps::finish_loads(const std::function<void(std::uint64_t bytes)>& read) {
  context_.use();
  loader_.finish(read);
}

std::string CudaOps::matmul_choices(std::span<const MatMulShape> shapes) {
  context_.use();
  return matmuls_.choices(shapes);
}

void CudaOps::use_matmul_choices(std::string_view choices) { matmuls_.use_choices(choices); }

void CudaOps::matmul(const MatMul& args) {
  context_.use();
  matmuls_.multiply(args);
}

void CudaOps::embedding(const Embedding& args) {
  check(args);
  context_.use();
  const Buffer input_ids = context_.upload(args.input_ids);
  kernels::embedding({.out = matrix_of(args.out),
                      .weight = matrix_of(args.weight),
                      .input_ids = static_cast<const std::int32_t*>(input_ids.data()),
                      .num_tokens = args.out.rows,
                      .hidden_size = args.out.columns,
                      .dtype = args.out.dtype},
                     context_.stream());
}

void CudaOps::rms_norm(const RmsNorm& args) {
  check(args);
  context_.use();
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
  context_.use();
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
  context_.use();
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
  context_.use();
  attention_.run(args);
}

void CudaOps::silu_mul(const SiluMul& args) {
  check(args);
  context_.use();
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
  context_.use();
  kernels::add({.out = matrix_of(args.out),
                .a = matrix_of(args.a),
                .b = matrix_of(args.b),
                .num_rows = args.out.rows,
                .columns = args.out.columns,
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
  context_.use();
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
