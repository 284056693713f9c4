#include "store/expert_counts.h"

#include <algorithm>
#include <span>
#include <string>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::store {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

Error damaged(const File& file, const std::string& point, std::string what) {
  return Error({.kind = ErrorKind::input,
                .where = text(file.path().string(), ": ", point),
                .what = std::move(what),
                .fix = "the file is damaged; make or fetch it again"});
}

}  // namespace

bool holds_experts(const Layout::Point& point) {
  return point.stored && point.point.dtype == Dtype::i32 && point.point.name.ends_with(":topk_indices");
}

std::vector<std::int64_t> count_experts(const File& file, const Contents& contents) {
  const auto num_experts = static_cast<std::size_t>(contents.num_experts);
  std::vector<std::int64_t> counts(contents.expert_points.size() * num_experts, 0);
  std::vector<std::int32_t> piece;
  for (std::size_t i = 0; i < contents.expert_points.size(); ++i) {
    const std::size_t point = contents.expert_points[i];
    const Extent& extent = contents.captures[point];
    for (std::uint64_t done = 0; done < extent.bytes; done += piece.size() * sizeof(std::int32_t)) {
      piece.resize(std::min<std::uint64_t>(kPieceBytes, extent.bytes - done) / sizeof(std::int32_t));
      file.read_at(extent.offset + done, std::as_writable_bytes(std::span(piece)));
      for (const std::int32_t expert : piece) {
        if (expert < 0 || expert >= contents.num_experts) {
          throw damaged(file, contents.points[point].point.name,
                        text("names expert ", expert, " where there are ", contents.num_experts));
        }
        ++counts[i * num_experts + static_cast<std::size_t>(expert)];
      }
    }
  }
  return counts;
}

std::vector<std::int64_t> read_expert_counts(const File& file, const Contents& contents, std::size_t at) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(contents.num_experts));
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(counts));
  file.read_at(contents.expert_counts.offset + at * bytes.size(), bytes);
  const std::int64_t rows = contents.rows.num_rows();
  for (const std::int64_t count : counts) {
    if (count >= 0 && count <= rows) continue;
    throw damaged(file, "/statistics/experts/counts", text("says that ", count, " of ", rows, " rows chose an expert"));
  }
  return counts;
}

}  // namespace layerprobe::store
