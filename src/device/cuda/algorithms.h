#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/file.h"
#include "device/cuda/product.h"

namespace layerprobe::device::cuda {

/// Which algorithm multiplies weights of which shape: one for each shape, whatever the number of tokens, so that rows
/// of a result have the same bits in every batch. Chosen by timing, once, and remembered on disk. One thread at a time.
class Algorithms {
 public:
  /// Remembers in `cache_folder` under the GPU's and the library's names; nowhere when it is empty.
  Algorithms(Context& context, const CublasLt& library, std::filesystem::path cache_folder);

  /// Chooses if need be: among cuBLASLt's candidates the fastest whose rows have the same bits in every batch tried.
  /// Throws Error(device) when there is none.
  const Algorithm& of(const Ops::MatMulShape& shape, Product& product);

  /// As Ops::matmul_choices has it. `text_of` knows the shapes chosen so far.
  std::string text_of(const Ops::MatMulShape& shape) const;
  /// Takes choices from the text of an earlier run instead of choosing. Throws Error(input) when it cannot be read.
  void use(std::string_view text);

 private:
  Algorithm choose(const Ops::MatMulShape& shape, Product& product);
  std::filesystem::path cache_file() const;
  void read_remembered();
  std::optional<File> lock() const;
  void remember() const;

  Context& context_;
  const CublasLt& library_;
  std::filesystem::path cache_folder_;
  std::map<std::string, Algorithm, std::less<>> chosen_;  // by the shape's name
};

}  // namespace layerprobe::device::cuda
