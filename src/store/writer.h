#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/probe_point.h"
#include "base/prompts.h"
#include "base/statistics.h"

namespace layerprobe::store {

using Attribute = std::variant<std::int64_t, double, std::string>;
/// By name, written as attributes of "/".
using Attributes = std::map<std::string, Attribute>;

/// All that the extents and the header of a file follow from. Known before the first layer runs.
struct Layout {
  struct Point {
    ProbePoint point;
    bool stored = true;  // false: statistics only, no dataset under /captures
  };
  std::vector<Point> points;  // in the order of the forward pass; the rows of /completion and /statistics
  Prompts prompts;
  CapturedRows rows;
  std::int64_t top_k = 0;  // columns of /topk/{ids,logits}, one row a captured row; 0: no /topk
  /// What a resumed run must share with the first: every one is compared, and the first that differs is named.
  Attributes identity;
  /// What may differ: command line, device map, start time, ...
  Attributes information;
};

/// The bytes that a file of this layout takes on the disk, its header included (an estimate that is never too small).
std::uint64_t planned_bytes(const Layout& layout);

/// Of the HDF5 library that is used: "1.10.8".
std::string hdf5_version();

/// Writes one captured run. The layout on disk, and what is promised after a crash, is in store/format.h.
///
/// The file is named "<path>.partial" from the moment it is valid until finish(). write_rows, write_statistics,
/// write_top_k and mark_complete: any thread, at disjoint places; commit: one thread at a time, while those go on; all
/// else: one thread, while no other call runs. Dropping a Writer without finish() leaves the partial file, with what
/// was committed.
class Writer {
 public:
  enum class IfExists {
    refuse,     // a finished or partial file of that name is an error
    overwrite,  // both are replaced: the finished file only at finish()
    resume,     // a partial file of this layout is continued; without one the run starts afresh
  };

  /// Creates or continues the file. Throws Error(usage) when it exists and may not be touched or another run writes it,
  /// Error(input), naming the first difference, when a partial or finished file is of another run, Error(resource) when
  /// the disk has not enough space (before anything is touched).
  /// With `resume` and a finished file that matches: is_finished() is true and nothing else may be called.
  Writer(std::filesystem::path path, const Layout& layout, IfExists if_exists);
  ~Writer();
  Writer(Writer&&) noexcept;

  bool is_finished() const;
  /// Was this on the disk for sure when this Writer was made, from an earlier run? Statistics of it are there too.
  bool is_complete(std::size_t point, std::int64_t prompt) const;
  /// How many bytes of captures an earlier run left complete.
  std::uint64_t resumed_bytes() const;
  /// How many bytes of captures are on the disk for sure after the last commit(), and how many there will be in all.
  std::uint64_t complete_bytes() const;
  std::uint64_t capture_bytes() const;

  /// Seconds that write_rows waited for space that was not yet set aside, all threads together.
  double waited_seconds() const;

  /// The rows from `first_row` on of a stored point: row-major, packed, in its dtype (f32 for means). In memory (tmpfs)
  /// it waits until they have their space, which a thread of the Writer sets aside ahead of them. On a disk, calls of
  /// some MiB are fastest, whose bytes begin and end on multiples of 4096 in the dataset and in memory: they are not
  /// copied. Throws Error(resource) once the disk refuses any of it.
  void write_rows(std::size_t point, std::int64_t first_row, std::span<const std::byte> rows);
  /// Where in the file a row of a stored point begins, in bytes. Any thread.
  std::uint64_t offset_of_row(std::size_t point, std::int64_t row) const;
  /// Reads such rows back: for a run that restarts from a captured layer.
  void read_rows(std::size_t point, std::int64_t first_row, std::span<std::byte> rows) const;
  /// Of the point's rows of one prompt, row numbers counted from the prompt's first row.
  void write_statistics(std::size_t point, std::int64_t prompt, const Statistics& statistics);
  /// Row `row` of /topk; ids and logits are [top_k]. Complete together with the point that it ranks.
  void write_top_k(std::int64_t row, std::span<const std::int32_t> ids, std::span<const float> logits);

  /// Marks the point complete for the prompt once its data is on the disk: at the next commit(). Call it when the rows
  /// and the statistics have been written.
  void mark_complete(std::size_t point, std::int64_t prompt);
  /// fdatasync of the data, then the marks, then fdatasync of the marks. Throws, at its end, what write_rows would.
  void commit();

  /// Of each point over all complete prompts, put together in order from what write_statistics stored (in any run).
  /// After commit().
  std::vector<Statistics> statistics() const;

  /// [num_rows, top_k], of this run and of the one it continues.
  std::vector<std::int32_t> top_k_ids() const;
  /// Text of the top-k tokens, one an entry of top_k_ids(); before finish(). A text is cut at 256 bytes.
  void write_top_k_texts(std::span<const std::string> texts);
  /// Commits, writes the totals and `information` (end time and the like), closes, gives the file its final name. Every
  /// point must be marked complete for every prompt. Call once, last; throws where the destructor could not.
  void finish(const Attributes& information);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace layerprobe::store
