#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compare/align.h"
#include "compare/difference.h"
#include "compare/selection_bias.h"
#include "store/reader.h"

namespace layerprobe::compare {

/// "model.layers.3.mlp" of its ":topk_indices"; nothing of any other point.
std::optional<std::string> experts_of_indices(const std::string& canonical_name);

/// Follows two runs of a mixture of experts from router to router: which tokens went to other experts.
class Routes {
 public:
  using Names = std::map<std::string, std::size_t>;  // canonical name to index into Reader::points()

  /// All of it outlives this. `selection_bias` is Rules' own.
  Routes(const store::Reader& reference, const Names& reference_names, const store::Reader& candidate,
         const Names& candidate_names, const Alignment& alignment, const SelectionBias& selection_bias);

  /// Of a ":topk_indices" that both have: what both chose, with the margins where the files hold the router's logits
  /// (".gate") and with the weights (":topk_weights") where they hold those; nothing of any other point. In the order
  /// of the forward pass, each before the points behind it are compared. All cores.
  std::optional<RoutingDifference> follow(const std::string& canonical_name);

  /// By the reference's row: 1 where a router that was followed chose other experts. Empty before the first.
  std::span<const std::uint8_t> rerouted() const { return rerouted_; }

 private:
  const store::Reader& reference_;
  const Names& reference_names_;
  const store::Reader& candidate_;
  const Names& candidate_names_;
  const Alignment& alignment_;
  const SelectionBias& selection_bias_;
  std::vector<std::uint8_t> rerouted_;
};

}  // namespace layerprobe::compare
