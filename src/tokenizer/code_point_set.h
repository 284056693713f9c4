#pragma once

#include <vector>

namespace layerprobe::tokenizer {

constexpr char32_t kLastCodePoint = 0x10FFFF;

/// A set of code points.
class CodePointSet {
 public:
  struct Range {
    char32_t first, last;
    auto operator<=>(const Range&) const = default;
  };

  CodePointSet() = default;
  /// In any order; they may overlap.
  explicit CodePointSet(std::vector<Range> ranges);
  CodePointSet(char32_t first, char32_t last) : ranges_{{first, last}} {}

  /// Sorted; they neither overlap nor touch.
  const std::vector<Range>& ranges() const { return ranges_; }
  bool contains(char32_t code_point) const;

  CodePointSet complement() const;
  CodePointSet united(const CodePointSet& other) const;
  CodePointSet intersected(const CodePointSet& other) const;

  auto operator<=>(const CodePointSet&) const = default;

 private:
  std::vector<Range> ranges_;
};

}  // namespace layerprobe::tokenizer
