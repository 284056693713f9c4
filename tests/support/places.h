#pragma once

#include <filesystem>

namespace layerprobe::test {

/// The folder of the program that runs, where layerprobe lies too: the build folder, or bin/ of an unpacked tarball.
inline std::filesystem::path program_folder() { return std::filesystem::read_symlink("/proc/self/exe").parent_path(); }

/// The folder that has tests/ and scripts/: the one above, where it is the repository or an unpacked tarball, else the
/// repository that the program was built from.
inline std::filesystem::path root_folder() {
  const std::filesystem::path above = program_folder().parent_path();
  return std::filesystem::exists(above / "tests/data") ? above : std::filesystem::path(LAYERPROBE_SOURCE_DIR);
}

}  // namespace layerprobe::test
