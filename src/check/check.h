#pragma once

#include <algorithm>
#include <cstddef>

#include "check/item.h"
#include "runtime/session.h"

namespace layerprobe::check {

struct Options {
  /// 1: in seconds, everything is asked and every way proven with a little data. 2: rates too, under load, in a minute
  /// or two. 3: every byte of the checkpoint too.
  int level = 1;
  /// The run that is to succeed here. Without a model: what every run needs.
  runtime::RunOptions run;
};

struct Report {
  int level = 1;
  Items items;
  double seconds = 0;

  std::size_t count(Status status) const {
    return static_cast<std::size_t>(std::ranges::count(items, status, &Item::status));
  }
  /// Nothing that was looked at keeps a run from succeeding.
  bool is_ready() const { return count(Status::fail) == 0; }
};

/// Will a run succeed here? Every failure becomes an item. Throws Error(usage) for options that say nothing that can be
/// checked, such as a device map that cannot be read.
Report check(const Options& options, const runtime::Watch& watch);

}  // namespace layerprobe::check
