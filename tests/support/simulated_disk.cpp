#include "tests/support/simulated_disk.h"

#include <algorithm>
#include <fstream>
#include <iterator>

namespace layerprobe::test {
namespace {

using Kind = DiskCall::Kind;

constexpr std::size_t kSector = 512;  // what a disk writes whole or not at all

void store(std::string& contents, std::uint64_t offset, std::string_view bytes) {
  contents.resize(std::max<std::size_t>(contents.size(), offset + bytes.size()), '\0');
  contents.replace(offset, bytes.size(), bytes);
}

void change(std::string& contents, const DiskCall& call) {
  if (call.has_bytes()) store(contents, call.offset, call.bytes);
  if (call.kind == Kind::resize) contents.resize(call.size, '\0');
  if (call.kind == Kind::allocate) contents.resize(std::max<std::size_t>(contents.size(), call.size), '\0');
}

void change(std::map<std::string, int>& names, const DiskCall& call) {
  if (call.kind == Kind::create) names[call.name] = call.file;
  if (call.kind == Kind::remove || call.kind == Kind::rename) names.erase(call.name);
  if (call.kind == Kind::rename) names[call.new_name] = call.file;
}

}  // namespace

DiskImage image_of(const std::filesystem::path& folder) {
  DiskImage image;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream in(entry.path(), std::ios::binary);
    image[entry.path().filename().string()] = {std::istreambuf_iterator<char>(in), {}};
  }
  return image;
}

void lay(const DiskImage& image, const std::filesystem::path& folder) {
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (const auto& [name, contents] : image) std::ofstream(folder / name, std::ios::binary) << contents;
}

SimulatedDisk::SimulatedDisk(const DiskImage& before) {
  for (const auto& [name, contents] : before) {
    names_[name] = static_cast<int>(files_.size());
    files_.push_back({.now = contents, .synced = contents, .unsynced = {}});
  }
  synced_names_ = names_;
}

void SimulatedDisk::apply(const DiskCall& call) {
  switch (call.kind) {
    case Kind::sync_folder:
      synced_names_ = names_;
      unsynced_names_.clear();
      return;
    case Kind::create:
    case Kind::rename:
    case Kind::remove:
      if (call.kind == Kind::create) files_.resize(static_cast<std::size_t>(call.file) + 1);
      change(names_, call);
      unsynced_names_.push_back(call);
      return;
    default:
      break;
  }
  File& file = files_.at(static_cast<std::size_t>(call.file));
  if (call.kind == Kind::sync) {
    file.synced = file.now;
    file.unsynced.clear();
  } else {
    change(file.now, call);
    file.unsynced.push_back(call);
  }
}

DiskImage SimulatedDisk::after_kill() const {
  DiskImage image;
  for (const auto& [name, file] : names_) image[name] = files_[static_cast<std::size_t>(file)].now;
  return image;
}

DiskImage SimulatedDisk::after_power_cut(double probability, std::mt19937& random) const {
  std::bernoulli_distribution reached(probability);
  std::map<std::string, int> names = synced_names_;
  for (const DiskCall& call : unsynced_names_) {
    if (!reached(random)) break;
    change(names, call);
  }
  DiskImage image;
  for (const auto& [name, number] : names) {
    const File& file = files_[static_cast<std::size_t>(number)];
    std::string contents = file.synced;
    for (const DiskCall& call : file.unsynced) {
      if (!call.has_bytes()) {
        if (reached(random)) change(contents, call);
        continue;
      }
      for (std::size_t begin = 0, size = 0; begin < call.bytes.size(); begin += size) {
        size = std::min(call.bytes.size() - begin, kSector - (call.offset + begin) % kSector);
        if (reached(random)) store(contents, call.offset + begin, std::string_view(call.bytes).substr(begin, size));
      }
    }
    image[name] = std::move(contents);
  }
  return image;
}

}  // namespace layerprobe::test
