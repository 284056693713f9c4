#include "device/cuda/expansions.h"

#include <algorithm>

#include "base/text.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

using kernels::check;

void wait_for(const Event& event, cudaStream_t stream) {
  check(cudaStreamWaitEvent(stream, event.get()), "order the expansion of FP8");
}

void record(const Event& event, cudaStream_t stream) {
  check(cudaEventRecord(event.get(), stream), "order the expansion of FP8");
}

}  // namespace

void Expansions::start() {
  check(cudaStreamCreateWithFlags(stream_.out(), cudaStreamNonBlocking), text("make a stream on ", context_.name()));
  for (auto* const events : {&expanded_, &multiplied_}) {
    for (Event& event : *events) {
      check(cudaEventCreateWithFlags(event.out(), cudaEventDisableTiming), text("make an event on ", context_.name()));
    }
  }
}

void Expansions::run(const Fp8Weights& weights, const Fp8Weights::Form& form, std::span<const Group> groups,
                     const std::function<void(const Group& group, const std::byte* expanded)>& multiply) {
  if (groups.empty()) return;
  if (stream_.get() == nullptr) start();
  const std::int64_t most = std::ranges::max(groups, {}, &Group::count).count;
  const std::size_t place_bytes = static_cast<std::size_t>(most) * form.bytes();
  const Buffer places = context_.allocate(kPlaces * place_bytes);
  // What used that memory before comes first, and the weights' loading.
  wait_for(context_.record(context_.stream()), stream_.get());
  const auto place_of = [&](std::size_t i) {
    return static_cast<std::byte*>(places.data()) + i % kPlaces * place_bytes;
  };
  const auto expand = [&](std::size_t i) {
    if (i >= kPlaces) wait_for(multiplied_[i % kPlaces], stream_.get());
    weights.expand(place_of(i), form, groups[i].first, groups[i].count, stream_.get());
    record(expanded_[i % kPlaces], stream_.get());
  };
  expand(0);
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (i + 1 < groups.size()) expand(i + 1);
    wait_for(expanded_[i % kPlaces], context_.stream());
    multiply(groups[i], place_of(i));
    record(multiplied_[i % kPlaces], context_.stream());
  }
}

}  // namespace layerprobe::device::cuda
