#pragma once

#include <filesystem>

#include "store/writer.h"

namespace layerprobe::store {

/// Makes the file of `layout` (replacing what is there): every dataset with its space, prompts and rows written, all
/// else zeros. Throws Error(resource) when the disk refuses. planned_bytes (store/writer.h) is its sum.
void create_file(const std::filesystem::path& path, const Layout& layout);

/// Throws Error(bug) unless the parts of `layout` fit each other.
void expect_consistent(const Layout& layout);

}  // namespace layerprobe::store
