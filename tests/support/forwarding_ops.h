#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/ops.h"

namespace layerprobe::test {

/// Another device under a name of its own, for tests to make some of it go wrong.
class ForwardingOps : public device::Ops {
 public:
  ForwardingOps(device::Ops& ops, std::string name) : ops_(ops), name_(std::move(name)) {}

  std::string name() const override { return name_; }
  std::string code_path() const override { return ops_.code_path(); }
  void synchronize() override { ops_.synchronize(); }
  device::Buffer allocate(std::size_t bytes) override { return ops_.allocate(bytes); }
  std::uint64_t free_bytes() override { return ops_.free_bytes(); }
  void copy_from_host(const device::Tensor& out, const void* host) override { ops_.copy_from_host(out, host); }
  void copy_to_host(void* host, const device::Tensor& x) override { ops_.copy_to_host(host, x); }
  device::Buffer allocate_on_host(std::size_t bytes) override { return ops_.allocate_on_host(bytes); }
  void start_copy_to_host(void* host, const device::Tensor& x) override { ops_.start_copy_to_host(host, x); }
  std::unique_ptr<device::Mark> mark() override { return ops_.mark(); }
  std::unique_ptr<device::Moment> moment() override { return ops_.moment(); }
  void follow(const device::Moment& moment) override { ops_.follow(moment); }
  device::Buffer allocate_shared(std::size_t bytes) override { return ops_.allocate_shared(bytes); }
  std::unique_ptr<device::Moment> start_copy_from_host(const device::Tensor& out, const void* host,
                                                       const device::Moment* after) override {
    return ops_.start_copy_from_host(out, host, after);
  }
  bool reaches(const device::Ops& other) const override {
    const auto* forwards = dynamic_cast<const ForwardingOps*>(&other);
    return ops_.reaches(forwards == nullptr ? other : forwards->ops_);
  }
  std::unique_ptr<device::Moment> send(const Send& args) override { return ops_.send(args); }
  std::unique_ptr<device::Stopwatch> stopwatch() override { return ops_.stopwatch(); }
  MemoryUse memory_use() const override { return ops_.memory_use(); }
  CaptureResources capture_resources() override { return ops_.capture_resources(); }
  bool keeps_fp8() const override { return ops_.keeps_fp8(); }
  void reserve(std::size_t bytes) override { ops_.reserve(bytes); }
  void load(const Load& args) override { ops_.load(args); }
  std::unique_ptr<device::MatMulWeight> matmul_weight(const MatMulWeightParts& parts) override {
    return ops_.matmul_weight(parts);
  }
  std::unique_ptr<device::ExpertWeights> expert_weights(const ExpertWeightsParts& parts) override {
    return ops_.expert_weights(parts);
  }
  std::unique_ptr<device::Loads> start_loads() override { return ops_.start_loads(); }
  void matmul(const MatMul& args) override { ops_.matmul(args); }
  std::string matmul_choices(std::span<const MatMulShape> shapes) override { return ops_.matmul_choices(shapes); }
  void use_matmul_choices(std::string_view choices) override { ops_.use_matmul_choices(choices); }
  void embedding(const Embedding& args) override { ops_.embedding(args); }
  void rms_norm(const RmsNorm& args) override { ops_.rms_norm(args); }
  void add_rms_norm(const AddRmsNorm& args) override { ops_.add_rms_norm(args); }
  void rope(const Rope& args) override { ops_.rope(args); }
  void attention(const Attention& args) override { ops_.attention(args); }
  void silu_mul(const SiluMul& args) override { ops_.silu_mul(args); }
  void add(const Add& args) override { ops_.add(args); }
  void expand(const Expand& args) override { ops_.expand(args); }
  void route_tokens(const RouteTokens& args) override { ops_.route_tokens(args); }
  void group_by_expert(const GroupByExpert& args) override { ops_.group_by_expert(args); }
  void gather_rows(const GatherRows& args) override { ops_.gather_rows(args); }
  void expert_matmul(const ExpertMatMul& args) override { ops_.expert_matmul(args); }
  void combine_experts(const CombineExperts& args) override { ops_.combine_experts(args); }
  void append_statistics(const AppendStatistics& args) override { ops_.append_statistics(args); }
  void mean_rows(const MeanRows& args) override { ops_.mean_rows(args); }

 private:
  device::Ops& ops_;
  std::string name_;
};

}  // namespace layerprobe::test
