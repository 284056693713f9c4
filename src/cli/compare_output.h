#pragma once

#include <iosfwd>

#include "compare/compare.h"

namespace layerprobe::cli {

/// Everything of a report but the verdict, as tables and notes on stdout.
void print_compared(const compare::Report& report);

/// A JSON object a line, each with a `type`: one "config", a "point" for each compared, a "skip" for each not, one
/// "summary" at the end.
void write_json_lines(std::ostream& out, const compare::Report& report);

}  // namespace layerprobe::cli
