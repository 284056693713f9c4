#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "device/backends.h"
#include "device/cuda/attention.h"
#include "device/cuda/context.h"
#include "device/cuda/loader.h"
#include "device/cuda/matmul.h"
#include "device/cuda/moments.h"
#include "device/cuda/side_copies.h"
#include "device/cuda/statistics.h"
#include "device/ops.h"

namespace layerprobe::device::cuda {

/// One GPU. Its memory, copies and weights are in cuda_ops.cpp, what a layer computes in operations.cpp.
class CudaOps : public Ops {
 public:
  CudaOps(int index, const DeviceOptions& options);
  ~CudaOps() override;
  CudaOps(const CudaOps&) = delete;
  CudaOps& operator=(const CudaOps&) = delete;

  std::string name() const override { return context_.name(); }
  std::string code_path() const override;
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
  void expand_key_values(const ExpandKeyValues& args) override;
  void silu_mul(const SiluMul& args) override;
  void add(const Add& args) override;
  void expand(const Expand& args) override;
  void route_tokens(const RouteTokens& args) override;
  void group_by_expert(const GroupByExpert& args) override;
  void gather_rows(const GatherRows& args) override;
  void expert_matmul(const ExpertMatMul& args) override;
  void run_experts(const RunExperts& args) override;
  void combine_experts(const CombineExperts& args) override;
  void append_statistics(const AppendStatistics& args) override;
  void mean_rows(const MeanRows& args) override;

 private:
  void begin_writing(std::initializer_list<Tensor> outs);
  std::int32_t* first_rows_on_host();  // kernels::GroupByExpert's

  Context context_;
  const int kernels_capability_;
  Loader loader_;
  MatMuls matmuls_;
  cuda::Attention attention_;
  SideCopies copies_;
  StatisticsQueue statistics_;
  std::optional<SideCopies> to_gpus_;  // once there is something to send
  PinnedMemory first_rows_on_host_;    // once there are experts
  Stream arrivals_;                    // that copies from the host go on beside operations, once there are any
};

}  // namespace layerprobe::device::cuda
