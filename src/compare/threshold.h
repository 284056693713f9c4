#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "compare/difference.h"

namespace layerprobe::compare {

/// One --threshold: 'model.layers.*.mlp: rel_l2 <= 5e-3 or max_abs <= 1e-3 and cosine >= 0.999'. `and` binds tighter.
struct Threshold {
  struct Condition {
    std::string metric;
    bool is_at_most = true;  // "<="; else ">="
    double limit = 0;
  };
  std::string pattern;
  std::string expression;                          // as typed, for messages
  std::vector<std::vector<Condition>> any_of_all;  // any list of which all hold

  bool holds_for(const Difference& difference) const;  // a metric that the point does not have does not hold
};

/// Throws Error(usage), naming --threshold, what is wrong and what could stand there.
Threshold parse_threshold(std::string_view text);

}  // namespace layerprobe::compare
