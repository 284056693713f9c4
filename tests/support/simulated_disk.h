#pragma once

// What a disk may hold after a crash, worked out from the calls that were made before it.

#include <cstdint>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/support/disk_calls.h"

namespace layerprobe::test {

/// A folder's files by name.
using DiskImage = std::map<std::string, std::string>;

DiskImage image_of(const std::filesystem::path& folder);
/// Makes the folder hold just these files.
void lay(const DiskImage& image, const std::filesystem::path& folder);

/// A folder that held `before`, all of it on the disk, and saw the calls one by one.
class SimulatedDisk {
 public:
  explicit SimulatedDisk(const DiskImage& before);

  void apply(const DiskCall& call);

  /// What the system's caches hold: what a killed process leaves.
  DiskImage after_kill() const;

  /// What a power cut leaves. What was synced is there. Of the rest any 512 bytes may have reached the disk or not,
  /// each with `probability`; of the names' changes since the folder was synced the first few, in their order, as
  /// every file system with a journal has it.
  DiskImage after_power_cut(double probability, std::mt19937& random) const;

 private:
  struct File {
    std::string now;
    std::string synced;
    std::vector<DiskCall> unsynced;
  };
  std::vector<File> files_;
  std::map<std::string, int> names_, synced_names_;
  std::vector<DiskCall> unsynced_names_;
};

}  // namespace layerprobe::test
