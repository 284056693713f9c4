#pragma once

#include <filesystem>

#include "store/contents.h"
#include "store/writer.h"

namespace layerprobe::store {

/// Throws Error(input), naming the first difference with both values, unless the file holds the run that `layout` asks
/// for: identity attribute by attribute, points, prompts, rows.
void expect_same_run(const std::filesystem::path& path, const Contents& contents, const Layout& layout);

}  // namespace layerprobe::store
