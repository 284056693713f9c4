#include "compare/sample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

namespace layerprobe::compare {
namespace {

constexpr std::int64_t kMaxRows = 512;
constexpr std::int64_t kMaxElements = 1 << 21;
constexpr std::int64_t kMaxPieces = 32;
constexpr std::int64_t kRowsAroundWorst = 16;

/// The runs, cut where a prompt ends.
std::vector<RowRun> cut_at_prompts(const CapturedRows& rows, const std::vector<RowRun>& runs) {
  std::vector<RowRun> pieces;
  for (RowRun run : runs) {
    while (run.count > 0) {
      const auto after = std::ranges::upper_bound(rows.cu_rows, run.reference_row);
      const std::int64_t count =
          after == rows.cu_rows.end() ? run.count : std::min(run.count, *after - run.reference_row);
      pieces.push_back({.reference_row = run.reference_row, .candidate_row = run.candidate_row, .count = count});
      run.reference_row += count;
      run.candidate_row += count;
      run.count -= count;
    }
  }
  return pieces;
}

/// Appends the rows of one point as f64.
void read_values(const store::Reader& reader, std::size_t point, std::int64_t first_row, std::int64_t count,
                 std::vector<double>& values) {
  const ProbePoint& found = reader.points()[point].point;
  const auto size = static_cast<std::size_t>(count * found.width);
  std::vector<std::byte> bytes(size * size_of(found.dtype));
  reader.read_rows(point, first_row, count, bytes);
  const std::size_t from = values.size();
  values.resize(from + size);
  row_kernels().back().widen(found.dtype, bytes.data(), static_cast<std::int64_t>(size), values.data() + from);
}

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::int64_t sample_rows_for(std::int64_t width) {
  return std::clamp(kMaxElements / std::max<std::int64_t>(1, width), std::int64_t{1}, kMaxRows);
}

std::vector<RowRun> sampled_rows(const store::Reader& reference, const std::vector<RowRun>& runs, std::int64_t max_rows,
                                 std::optional<std::int64_t> with_row) {
  const std::vector<RowRun> pieces = cut_at_prompts(reference.rows(), runs);
  const auto num_pieces = static_cast<std::int64_t>(pieces.size());
  std::vector<RowRun> chosen;
  // Short prompts leave room for more of them.
  std::int64_t rows_left = max_rows;
  const std::int64_t step = std::max<std::int64_t>(1, num_pieces / std::min(num_pieces + 1, kMaxPieces));
  const std::int64_t rows_each =
      std::max<std::int64_t>(1, max_rows / std::max<std::int64_t>(1, (num_pieces + step - 1) / step));
  for (std::int64_t i = 0; i < num_pieces && rows_left > 0; i += step) {
    RowRun piece = pieces[static_cast<std::size_t>(i)];
    piece.count = std::min({piece.count, rows_each, rows_left});
    rows_left -= piece.count;
    chosen.push_back(piece);
  }
  if (!with_row) return chosen;
  for (const RowRun& piece : pieces) {
    const std::int64_t at = *with_row - piece.reference_row;
    if (at < 0 || at >= piece.count) continue;
    const std::int64_t first = std::max<std::int64_t>(0, at - kRowsAroundWorst / 2);
    const bool has_it = std::ranges::any_of(chosen, [&](const RowRun& each) {
      return *with_row >= each.reference_row && *with_row < each.reference_row + each.count;
    });
    if (!has_it) {
      chosen.push_back({.reference_row = piece.reference_row + first,
                        .candidate_row = piece.candidate_row + first,
                        .count = std::min({kRowsAroundWorst, piece.count - first, max_rows})});
    }
    break;
  }
  return chosen;
}

Sample read_sample(const store::Reader& reference, std::size_t reference_point, const store::Reader& candidate,
                   std::size_t candidate_point, const std::vector<RowRun>& rows) {
  Sample sample;
  sample.width = reference.points()[reference_point].point.width;
  for (const RowRun& piece : rows) {
    sample.piece_begin.push_back(sample.num_rows());
    read_values(reference, reference_point, piece.reference_row, piece.count, sample.reference);
    read_values(candidate, candidate_point, piece.candidate_row, piece.count, sample.candidate);
    for (std::int64_t i = 0; i < piece.count; ++i) {
      sample.reference_row.push_back(piece.reference_row + i);
      sample.position.push_back(reference.rows().position[static_cast<std::size_t>(piece.reference_row + i)]);
    }
  }
  sample.piece_begin.push_back(sample.num_rows());
  return sample;
}

Massive massive_of(const store::Reader& reference, std::size_t reference_point, const std::vector<RowRun>& rows) {
  constexpr double kSinkNorms = 8, kMassive = 30;
  constexpr std::size_t kMaxChannels = 16;
  const ProbePoint& point = reference.points()[reference_point].point;
  if (point.dtype == Dtype::i32) return {};
  const auto width = static_cast<std::size_t>(point.width);
  std::vector<double> values;
  for (const RowRun& piece : rows) read_values(reference, reference_point, piece.reference_row, piece.count, values);
  const std::size_t num_rows = width == 0 ? 0 : values.size() / width;
  std::vector<double> squares(num_rows);
  for (std::size_t row = 0; row < num_rows; ++row) {
    double* const here = values.data() + row * width;
    std::array<double, 8> sums{};  // side by side: one sum would wait for itself
    for (std::size_t i = 0; i < width; ++i) {
      here[i] = std::fabs(here[i]) <= std::numeric_limits<double>::max() ? std::fabs(here[i]) : 0;
      sums[i % 8] += here[i] * here[i];
    }
    squares[row] = std::accumulate(sums.begin(), sums.end(), 0.0);
  }
  Massive massive;
  const double median_squares = median_of(squares);
  if (median_squares > 0) massive.sink_squares = kSinkNorms * kSinkNorms * median_squares;
  std::vector<double> largest(width);
  for (std::size_t row = 0; row < num_rows; ++row) {
    if (squares[row] > massive.sink_squares) continue;
    const double* const here = values.data() + row * width;
    for (std::size_t i = 0; i < width; ++i) largest[i] = largest[i] < here[i] ? here[i] : largest[i];
  }
  const double median = median_of(largest);
  if (!(median > 0)) return massive;
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < width; ++i) {
    if (largest[i] > kMassive * median) order.push_back(i);
  }
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return largest[a] > largest[b]; });
  if (order.size() > kMaxChannels) order.resize(kMaxChannels);
  for (const std::size_t i : order) massive.channels.push_back(static_cast<std::int64_t>(i));
  std::ranges::sort(massive.channels);
  return massive;
}

}  // namespace layerprobe::compare
