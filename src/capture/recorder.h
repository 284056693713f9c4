#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"
#include "base/prompts.h"
#include "base/statistics.h"
#include "device/ops.h"
#include "store/writer.h"

namespace layerprobe::capture {

/// Prompts that go through the model together: consecutive ones, packed end to end.
struct Batch {
  std::int64_t first_prompt = 0;
  std::vector<std::int64_t> cu_seqlens;  // [num_prompts + 1], begins with 0

  std::int64_t num_prompts() const { return static_cast<std::int64_t>(cu_seqlens.size()) - 1; }
  std::int64_t num_tokens() const { return cu_seqlens.back(); }
};

/// Brings the kept values from a device to the store: selects the rows, takes their statistics where the data is,
/// copies them into one of a fixed number of host slots and lets a thread of its own write them.
///
/// When all slots are full, record() waits for the writer; the time is counted. An error of the writer is thrown by the
/// next record() or by finish(). One thread calls.
class Recorder {
 public:
  /// `writer` may be null (--output none): everything is done but the writing. `layout` and `writer` outlive this.
  /// What was complete for `commit_every` is committed: no more work than that is lost in a crash.
  Recorder(device::Ops& ops, const store::Layout& layout, bool keeps_mean, store::Writer* writer,
           std::chrono::duration<double> commit_every);
  /// Writes and commits what was recorded, so that a run that stops half-way can be continued; drops what goes wrong
  /// then.
  ~Recorder();

  /// The value of a point for all tokens of the batch: [num_tokens, width].
  void record(std::size_t point, const Batch& batch, const device::Tensor& value);
  /// Of a point that was computed for the selected rows only: [number of the batch's rows, width], which are the rows
  /// from `first_row` on. A batch's rows may come in several calls; `last` says that these were the last.
  void record_selected(std::size_t point, const Batch& batch, std::int64_t first_row, const device::Tensor& value,
                       bool last);

  /// The rows of the batch that are kept, counted from its first token. Means: one a prompt, -1.
  std::vector<std::int32_t> selected_rows(const Batch& batch) const;

  /// Everything recorded is on the disk and marked complete.
  void finish();

  /// Of each point, over what was recorded here, in the order it was recorded.
  const std::vector<Statistics>& statistics() const { return statistics_; }
  double waited_seconds() const { return waited_seconds_; }
  std::uint64_t recorded_bytes() const { return recorded_bytes_; }

 private:
  struct Item {
    std::size_t point = 0;
    std::int64_t first_row = 0;
    std::vector<std::byte> rows;  // a slot; empty: no rows, the prompts below are complete
    std::int64_t first_prompt = 0;
    std::vector<Statistics> per_prompt;
  };

  void copy_rows(std::size_t point, std::int64_t first_row, const device::Tensor& value);
  void take_statistics(std::span<const std::int64_t> cu_rows, const device::Tensor& value);
  void complete(std::size_t point, const Batch& batch);
  void push(Item item);
  std::vector<std::byte> free_slot();
  void write_all();
  void check_writer();

  device::Ops& ops_;
  const store::Layout& layout_;
  const bool keeps_mean_;
  store::Writer* const writer_;
  const std::chrono::duration<double> commit_every_;
  std::vector<Statistics> statistics_;         // of each point, so far
  std::vector<std::int64_t> statistics_rows_;  // rows in them
  std::vector<Statistics> per_prompt_;         // of the batch being recorded
  device::Buffer scratch_;                     // selected rows on the device
  double waited_seconds_ = 0;
  std::uint64_t recorded_bytes_ = 0;

  BoundedQueue<Item> full_;
  BoundedQueue<std::vector<std::byte>> free_;
  std::mutex problem_mutex_;
  std::exception_ptr problem_;
  std::thread thread_;
};

}  // namespace layerprobe::capture
