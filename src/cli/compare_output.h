#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>

#include "cli/blame.h"
#include "compare/compare.h"
#include "store/reader.h"

namespace layerprobe::cli {

/// Everything of a report but the verdict, as tables and notes on stdout.
void print_compared(const compare::Report& report);

/// Each layer's own error beside what it shows in the candidate, and the sentence.
void print_blame(const Blame& blame, const compare::Report& report);

/// A JSON object a line, each with a `type`: one "config", a "point" for each compared, a "skip" for each not, with a
/// `blame` a "layer" for each that was run by itself, one "summary" at the end.
void write_json_lines(std::ostream& out, const compare::Report& report, const Blame* blame);

/// The text of a token by itself; empty where there is no tokenizer.
using TokenText = std::function<std::string(std::int32_t id)>;

/// One self-contained page: everything is in it, and it loads nothing. Under 5 MB whatever the runs' size: where there
/// are more tokens than the heatmap has columns, each is the worst of some neighbours.
void write_html(std::ostream& out, const compare::Report& report, const store::Reader& reference, const Blame* blame,
                const TokenText& token_text);

}  // namespace layerprobe::cli
