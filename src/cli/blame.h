#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "compare/compare.h"
#include "runtime/session.h"
#include "store/reader.h"

namespace layerprobe::cli {

/// Each block of a model, fed what entered it in the reference: its own error, without what it would have inherited.
struct Blame {
  struct Layer {
    int layer = 0;
    std::vector<compare::Difference> differences;  // of the points inside it that the reference has, in forward order
    std::optional<compare::Finding> finding;       // of a layer whose own error is over its limit

    double own_error() const;  // Difference::error() of the block's output, or of the last point that there is
    bool agrees() const { return !finding; }
  };
  std::vector<Layer> layers;
  std::string dtype;                 // that they were run in
  std::vector<std::string> skipped;  // "layer 3: the reference does not have what entered it"

  const Layer* culprit() const;  // the first over its limit; nullptr when none is
};

/// Runs the layers one at a time, each into a file of its own in the folder for temporary files, which is gone again
/// before the next. `options` say the model, dtype and device. The limits are those of one block. Throws Error(input)
/// when the model does not fit the reference or no layer can be fed.
Blame blame_layers(const store::Reader& reference, const runtime::RunOptions& options, const compare::Rules& rules,
                   const std::function<void(double)>& progress);

/// "model.layers.17 is the first whose own error is above its limit: ...; layers 18 to 31 inherit it".
std::string blame_sentence(const Blame& blame, const compare::Report& report);

}  // namespace layerprobe::cli
