#include "device/cuda/moments.h"

#include "base/text.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {

CudaMark::CudaMark(const Context& context, SideCopies& copies, StatisticsQueue& statistics)
    : context_(context), statistics_(statistics), waiting_(statistics.take()) {
  copies.follow_operations();
  passed_ = context.record(copies.stream());
}

CudaMark::~CudaMark() {
  if (waiting_.empty()) return;
  cudaEventSynchronize(passed_.get());  // the blocks are being written
  statistics_.discard(std::move(waiting_));
}

void CudaMark::wait() {
  context_.use();
  wait_asleep(passed_, text("run on ", context_.name()));
  statistics_.deliver(std::exchange(waiting_, {}));
}

void CudaMoment::precede(cudaStream_t stream) const {
  for (const Event& event : events_) kernels::check(cudaStreamWaitEvent(stream, event.get()), "order work of GPUs");
}

void CudaMoment::wait() const {
  for (const Event& event : events_) wait_asleep(event, "wait for a GPU");
}

void let_precede(const Moment* moment, cudaStream_t stream) {
  if (moment == nullptr) return;
  const auto* of_gpu = dynamic_cast<const CudaMoment*>(moment);
  if (of_gpu != nullptr) return of_gpu->precede(stream);
  moment->wait();  // of the host's processors
}

double CudaStopwatch::seconds() {
  double seconds = 0;
  for (const Span& span : spans_) {
    float milliseconds = 0;
    if (span.end.get() == nullptr) continue;
    kernels::check(cudaEventElapsedTime(&milliseconds, span.begin.get(), span.end.get()), "measure time");
    seconds += milliseconds / 1e3;
  }
  return seconds;
}

Event CudaStopwatch::now() const {
  context_.use();
  Event event;
  kernels::check(cudaEventCreate(event.out()), "measure time");
  kernels::check(cudaEventRecord(event.get(), context_.stream()), "measure time");
  return event;
}

}  // namespace layerprobe::device::cuda
