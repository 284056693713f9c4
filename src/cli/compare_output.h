#pragma once

#include <iosfwd>

#include "cli/blame.h"
#include "compare/compare.h"

namespace layerprobe::cli {

/// Everything of a report but the verdict, as tables and notes on stdout.
void print_compared(const compare::Report& report);

/// Each layer's own error beside what it shows in the candidate, and the sentence.
void print_blame(const Blame& blame, const compare::Report& report);

/// A JSON object a line, each with a `type`: one "config", a "point" for each compared, a "skip" for each not, with a
/// `blame` a "layer" for each that was run by itself, one "summary" at the end.
void write_json_lines(std::ostream& out, const compare::Report& report, const Blame* blame);

}  // namespace layerprobe::cli
