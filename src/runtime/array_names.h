#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace layerprobe::runtime {

/// Which point an array is of, from what it is called: 'out_{layer}_p{prompt} = model.layers.{layer-1}'.
///
/// An array's name is its file's path within the folder without the ending, and for a tensor of a safetensors file
/// "/<tensor>" behind that. A pattern without a slash is held against what stands behind the last one. Left of " = ":
/// {layer} is a number, {prompt} and {point} are anything without a slash, * is so too. Right: {layer}, {layer+N},
/// {layer-N}, {point}; or input_ids, for the tokens of a prompt. Without " = " the point is {point}.
class NamePattern {
 public:
  /// Throws Error(usage), naming --map.
  explicit NamePattern(std::string_view text);

  struct Match {
    std::string point;                  // or "input_ids"
    std::optional<std::string> prompt;  // nothing: the array is of all prompts
  };
  /// Nothing where the name does not match, or the layer would be below 0.
  std::optional<Match> match(std::string_view name) const;

 private:
  struct Piece {
    enum class Kind { text, layer, prompt, point, any } kind = Kind::text;
    std::string text = {};    // of text
    std::int64_t offset = 0;  // of a layer on the right
  };
  struct Found {
    std::string_view layer, prompt, point;
  };
  static std::vector<Piece> pieces_of(std::string_view given, std::string_view side, bool is_left);
  static bool matches(const std::vector<Piece>& pieces, std::size_t piece, std::string_view rest, Found& found);

  bool has_slash_ = false, has_prompt_ = false;
  std::vector<Piece> left_, right_;
};

/// "p10" comes behind "p9": runs of digits are compared as numbers.
bool comes_before(std::string_view a, std::string_view b);

}  // namespace layerprobe::runtime
