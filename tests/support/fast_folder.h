#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace layerprobe::test {

/// In memory where there is such a place: the disk's own syncs are not what is tested here.
class FastFolder {
 public:
  FastFolder() {
    std::string name = (std::filesystem::exists("/dev/shm") ? std::filesystem::path("/dev/shm")
                                                            : std::filesystem::temp_directory_path()) /
                       "layerprobe-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~FastFolder() { std::filesystem::remove_all(path_); }

  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace layerprobe::test
