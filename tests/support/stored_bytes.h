#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/storage.h"

namespace layerprobe::test {

/// Bytes of `count` values (whole blocks) that storage may have, the same for one seed everywhere: all signs and sizes,
/// infinities too, but no NaN, whose bits devices compute differently.
std::vector<std::byte> random_stored(Storage storage, std::int64_t count, std::uint64_t seed);

}  // namespace layerprobe::test
