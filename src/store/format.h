#pragma once

namespace layerprobe::store {

/// The version of this layout: attribute `format_version` of "/". A reader takes its own and lower ones.
inline constexpr int kFormatVersion = 1;

}  // namespace layerprobe::store
