#include "device/load_plan.h"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "base/error.h"

namespace layerprobe::device {
namespace {

constexpr std::uint64_t kAlignment = File::kDirectAlignment;
constexpr std::uint64_t kLargestGap = 64 * 1024;  // between two loads that are read at once: less than another call
constexpr int kSamples = 32;                      // of a file, to see whether it is in memory

std::uint64_t floor_of(std::uint64_t offset) { return offset / kAlignment * kAlignment; }
std::uint64_t ceiling_of(std::uint64_t offset) { return floor_of(offset + kAlignment - 1); }

/// Whether most of the file's bytes from the first load to the last would come from a disk.
bool is_cold(const File& file, std::uint64_t begin, std::uint64_t end) {
  int cold = 0;
  for (int i = 0; i < kSamples; ++i) {
    if (!file.is_cached(begin + (end - begin) / kSamples * static_cast<std::uint64_t>(i))) ++cold;
  }
  return cold > kSamples / 2;
}

/// How many bytes of a load, from `done` on, `piece` still has room for; 0 when it is too far away or full.
std::uint64_t room_for(const LoadPiece& piece, const StoredValues& values, std::uint64_t done) {
  const std::uint64_t at = values.offset + done, limit = floor_of(piece.begin) + LoadPlan::kPieceBytes;
  if (at < piece.begin || at > piece.end + kLargestGap || at >= limit) return 0;
  if (piece.parts.size() >= LoadPlan::kMostParts) return 0;
  return limit - at;
}

}  // namespace

bool LoadPlan::is_copy(const QueuedLoad& load) {
  return is_same(load.values.storage, load.out.dtype) && load.out.is_contiguous() && load.values.interleaved_heads == 0;
}

LoadPlan::LoadPlan(std::vector<QueuedLoad> queued) : loads(std::move(queued)) {
  std::ranges::stable_sort(loads, [](const QueuedLoad& a, const QueuedLoad& b) {
    if (a.values.file != b.values.file) return std::less<const File*>()(a.values.file, b.values.file);
    return a.values.offset < b.values.offset;
  });
  for (std::size_t i = 0; i < loads.size(); ++i) {
    const StoredValues& values = loads[i].values;
    const bool copies = is_copy(loads[i]);
    const auto block = static_cast<std::uint64_t>(copies ? 1 : traits_of(values.storage).block_bytes);
    converts = converts || !copies;
    if (sources.empty() || sources.back().file != values.file) {
      sources.push_back({.file = values.file, .direct = {}});
      std::uint64_t end = 0;
      for (std::size_t j = i; j < loads.size() && loads[j].values.file == values.file; ++j) {
        end = std::max(end, loads[j].values.offset + loads[j].values.bytes());
      }
      if (is_cold(*values.file, values.offset, end)) sources.back().direct = values.file->reopened_direct();
    }
    const std::size_t source = sources.size() - 1;
    for (std::uint64_t done = 0; done < values.bytes();) {
      const std::uint64_t at = values.offset + done;
      std::uint64_t room =
          pieces.empty() || pieces.back().source != source ? 0 : room_for(pieces.back(), values, done) / block * block;
      if (room == 0) {
        pieces.push_back({.source = source, .begin = at, .end = at, .parts = {}});
        room = room_for(pieces.back(), values, done) / block * block;
      }
      const std::uint64_t count = std::min(room, values.bytes() - done);
      pieces.back().parts.push_back({.load = i, .begin = done, .end = done + count});
      pieces.back().end = std::max(pieces.back().end, at + count);
      pieces.back().bytes += count;
      done += count;
    }
  }
  for (const LoadPiece& piece : pieces) {
    room_bytes = std::max(room_bytes, static_cast<std::size_t>(ceiling_of(piece.end) - floor_of(piece.begin)));
  }
}

const std::byte* read_piece(const LoadSource& source, const LoadPiece& piece, std::span<std::byte> room) {
  const std::uint64_t begin = floor_of(piece.begin);
  const std::size_t before = static_cast<std::size_t>(piece.begin - begin);
  const std::size_t needed = static_cast<std::size_t>(piece.end - begin);
  std::byte* const place = room.data() + before;  // as far from a page's begin as in the file: copied fastest
  if (source.direct) {
    const auto whole = room.first(static_cast<std::size_t>(ceiling_of(piece.end) - begin));
    if (source.direct->read_direct(begin, whole) >= needed) return place;
  }
  source.file->read_at(piece.begin, std::span(place, needed - before));
  return place;
}

}  // namespace layerprobe::device
