#pragma once

#include <cuda_runtime.h>

#include <utility>
#include <vector>

#include "device/cuda/context.h"
#include "device/cuda/side_copies.h"
#include "device/cuda/statistics.h"
#include "device/ops.h"

namespace layerprobe::device::cuda {

class CudaMark : public Mark {
 public:
  /// Made when the operations' stream has been given all that it stands for. All outlive this.
  CudaMark(const Context& context, SideCopies& copies, StatisticsQueue& statistics);
  ~CudaMark() override;
  CudaMark(const CudaMark&) = delete;
  CudaMark& operator=(const CudaMark&) = delete;

  void wait() override;

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
  void precede(cudaStream_t stream) const;
  void wait() const override;

 private:
  std::vector<Event> events_;
};

/// Lets what `stream` does next wait for a moment of any device, if there is one.
void let_precede(const Moment* moment, cudaStream_t stream);

class CudaStopwatch : public Stopwatch {
 public:
  explicit CudaStopwatch(const Context& context) : context_(context) {}

  void start() override { spans_.push_back({.begin = now(), .end = {}}); }
  void stop() override { spans_.back().end = now(); }
  double seconds() override;

 private:
  struct Span {
    Event begin, end;
  };
  Event now() const;

  const Context& context_;
  std::vector<Span> spans_;
};

}  // namespace layerprobe::device::cuda
