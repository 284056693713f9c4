#include "weights/tensor_info.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::weights {

std::optional<std::int64_t> product_of(const std::vector<std::int64_t>& shape) {
  constexpr std::int64_t kMax = std::int64_t{1} << 62;
  std::int64_t product = 1;
  bool is_empty = false;  // [2^40, 2^40, 0] has no element, and still overflows where it is multiplied out
  for (const std::int64_t size : shape) {
    if (size < 0) return std::nullopt;
    is_empty = is_empty || size == 0;
    const std::int64_t factor = std::max<std::int64_t>(size, 1);
    if (product > kMax / factor) return std::nullopt;
    product *= factor;
  }
  return is_empty ? 0 : product;
}

std::optional<std::uint64_t> bytes_of(const std::vector<std::int64_t>& shape, Storage storage) {
  const StorageTraits& traits = traits_of(storage);
  const std::optional<std::int64_t> elements = product_of(shape);
  if (!elements) return std::nullopt;
  if (traits.block_elements != 1 && (shape.empty() || shape.back() % traits.block_elements != 0)) return std::nullopt;
  const std::uint64_t blocks = static_cast<std::uint64_t>(*elements / traits.block_elements);
  const std::uint64_t block_bytes = static_cast<std::uint64_t>(traits.block_bytes);
  if (blocks > (std::uint64_t{1} << 63) / block_bytes) return std::nullopt;
  return blocks * block_bytes;
}

std::int64_t TensorInfo::num_elements() const {
  const std::optional<std::int64_t> elements = product_of(shape);
  expect(elements.has_value(), "a tensor's shape was checked when its header was read");
  return *elements;
}

void sort_by_name(std::vector<TensorInfo>& tensors, const std::vector<std::filesystem::path>& files) {
  const auto by_name = [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; };
  std::sort(tensors.begin(), tensors.end(), by_name);
  const auto same = [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; };
  const auto twice = std::adjacent_find(tensors.begin(), tensors.end(), same);
  if (twice == tensors.end()) return;
  const std::string first = files.at(static_cast<std::size_t>(twice->file)).filename().string();
  const std::string second = files.at(static_cast<std::size_t>((twice + 1)->file)).filename().string();
  throw Error({.kind = ErrorKind::input,
               .where = files.front().parent_path().string(),
               .what = text("tensor ", twice->name, " stands twice (", first, ", ", second, ")"),
               .fix = "fetch the model again into an empty folder"});
}

}  // namespace layerprobe::weights
