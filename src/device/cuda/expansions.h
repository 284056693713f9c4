#pragma once

#include <array>
#include <functional>
#include <span>

#include "device/cuda/context.h"
#include "device/cuda/fp8_weights.h"

namespace layerprobe::device::cuda {

/// Expands experts' FP8 weights a group at a time, each beside the products of the group before, on a stream of its
/// own: a product's last tiles leave processors without work. One thread at a time.
class Expansions {
 public:
  explicit Expansions(Context& context) : context_(context) {}

  struct Group {
    std::int64_t first, count;  // experts
  };
  /// Queues all of it. `multiply` is called for each group in turn, to queue what takes its weights, which lie at
  /// `expanded` as Fp8Weights::expand leaves them until then.
  void run(const Fp8Weights& weights, const Fp8Weights::Form& form, std::span<const Group> groups,
           const std::function<void(const Group& group, const std::byte* expanded)>& multiply);

 private:
  static constexpr std::size_t kPlaces = 2;  // for groups

  void start();

  Context& context_;
  Stream stream_;
  std::array<Event, kPlaces> expanded_, multiplied_;  // what was last at each place
};

}  // namespace layerprobe::device::cuda
