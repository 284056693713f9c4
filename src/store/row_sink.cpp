#include "store/row_sink.h"

#include <algorithm>
#include <vector>

namespace layerprobe::store {

void set_space_aside(const File& file, const Contents& contents) {
  std::vector<Extent> later;
  if (file.is_in_memory()) later = contents.captures;
  std::sort(later.begin(), later.end(), [](const Extent& a, const Extent& b) { return a.offset < b.offset; });
  std::uint64_t begin = 0;
  for (const Extent& extent : later) {
    if (extent.offset > begin) file.allocate(begin, extent.offset - begin);
    begin = std::max(begin, extent.offset + extent.bytes);
  }
  file.allocate(begin, file.size() - begin);
}

RowSink::RowSink(const File& file, const Contents& contents) : file_(file), contents_(contents) {
  if (!file.is_in_memory()) {
    direct_.emplace(file);
    return;
  }
  mapping_ = MappedFile::map(file);
  std::vector<SpaceAhead::Dataset> datasets;
  for (std::size_t point = 0; point < contents.points.size(); ++point) {
    const Extent& extent = contents.captures[point];
    datasets.push_back({.offset = extent.offset, .bytes = extent.bytes, .row_bytes = contents.row_bytes(point)});
  }
  space_.emplace(
      [this](std::uint64_t offset, std::uint64_t bytes) {
        if (mapping_) return mapping_->allocate(offset, bytes);
        file_.allocate(offset, bytes);
      },
      datasets);
}

void RowSink::write(std::size_t point, std::uint64_t begin, std::span<const std::byte> rows) {
  const std::uint64_t offset = contents_.captures[point].offset + begin;
  if (space_) space_->wait_for(point, begin + rows.size());
  if (mapping_) {
    mapping_->store(offset, rows);
  } else if (direct_) {
    direct_->write_at(offset, rows);
  } else {
    file_.write_at(offset, rows);
  }
}

void RowSink::check() {
  if (space_) space_->check();
}

void RowSink::stop() {
  if (space_) space_->stop();
}

double RowSink::waited_seconds() const { return space_ ? space_->waited_seconds() : 0; }

}  // namespace layerprobe::store
