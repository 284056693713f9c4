#pragma once

#include <filesystem>
#include <string>

#include "store/contents.h"
#include "store/writer.h"

namespace layerprobe::store {

/// As messages show them, cut where they are long.
std::string shown(const Attribute& attribute);
std::string shown(const Layout::Point& point);

/// Throws Error(input), naming the first difference with both values, unless the file holds the run that `layout` asks
/// for: identity attribute by attribute, points, prompts, rows.
void expect_same_run(const std::filesystem::path& path, const Contents& contents, const Layout& layout);

}  // namespace layerprobe::store
