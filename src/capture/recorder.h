#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
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

/// What the recorders of all devices of a run share: when the file is committed, and, where there is no file, the
/// statistics of each point. Any thread.
class Gathering {
 public:
  /// `writer` may be null. What was complete for `commit_every` is committed: no more work than that is lost in a
  /// crash.
  Gathering(const store::Layout& layout, store::Writer* writer, std::chrono::duration<double> commit_every)
      : writer_(writer),
        commit_every_(commit_every),
        last_commit_(std::chrono::steady_clock::now()),
        points_(layout.points.size()) {
    for (const store::Layout::Point& point : layout.points) widths_.push_back(point.point.width);
  }

  void commit_if_due();
  void commit();

  /// Statistics of a point's prompts from `first_prompt` on. They may come in any order; they are put together in that
  /// of the prompts, each of which comes once.
  void add(std::size_t point, std::int64_t first_prompt, std::span<const Statistics> prompts);
  /// Of each point, once all are there.
  std::vector<Statistics> statistics() const;

 private:
  struct Point {
    Statistics all;  // of the prompts before `next_prompt`
    std::int64_t rows = 0;
    std::int64_t next_prompt = 0;
    std::map<std::int64_t, std::vector<Statistics>> waiting;  // by their first prompt
  };

  store::Writer* const writer_;
  const std::chrono::duration<double> commit_every_;
  std::mutex commit_mutex_;
  std::chrono::steady_clock::time_point last_commit_;
  mutable std::mutex mutex_;  // of what follows
  std::vector<Point> points_;
  std::vector<std::int64_t> widths_;
};

/// Brings the kept values from a device to the store: selects the rows, takes their statistics where the data is, and
/// copies them, beside what the device does next, into one of a fixed number of slots on the host, from where threads
/// write them.
///
/// When all slots are full, record() waits for the writers; the time is counted. An error of a writer is thrown by the
/// next record() or by finish(). One thread calls.
class Recorder {
 public:
  /// `writer` may be null (--output none): everything is done but the writing. `ring_bytes` of all slots; 0: what the
  /// device likes. All but the device may be shared with the recorders of other devices, and outlive this.
  Recorder(device::Ops& ops, const store::Layout& layout, bool keeps_mean, store::Writer* writer, Gathering& gathering,
           std::size_t ring_bytes);
  /// Has the slots made in the background, while weights are loaded: before anything is recorded. Pinned memory is made
  /// one piece at a time, and what the loading needs of it goes first.
  void start_slots();
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

  /// For slots that are free: for the writers. Any thread.
  double waited_seconds() const { return waited_seconds_; }
  bool is_waiting() const { return is_waiting_; }
  std::uint64_t recorded_bytes() const { return recorded_bytes_; }

 private:
  struct Slots {
    std::size_t bytes;  // of each
    std::size_t count;
  };
  static Slots slots_of(std::size_t ring_bytes, const store::Layout& layout);

  /// A point's value of one batch, while it is on its way.
  struct Record {
    std::size_t point = 0;
    std::int64_t first_prompt = 0;
    std::vector<Statistics> per_prompt;
    std::int64_t parts_left = 1;  // that are not written; the one is for what is still to be recorded
  };
  /// Some of its rows, or none: then only the mark matters.
  struct Part {
    Record* record = nullptr;
    std::int64_t first_row = 0;
    std::byte* slot = nullptr;
    std::span<std::byte> rows = {};
    std::unique_ptr<device::Mark> arrived = {};
  };

  Record& begin_record(std::size_t point, const Batch& batch);
  void take_statistics(Record& record, std::span<const std::int64_t> cu_rows, const device::Tensor& value);
  void copy_rows(Record& record, std::int64_t first_row, const device::Tensor& value);
  void end_record(Record& record);
  void push(Part part);

  std::byte* free_slot();
  void make_slots();
  void write_parts();
  void wait_for(const Part& part) const;
  void finish_part(const Part& part);
  void stop(std::exception_ptr problem);
  void check_writers();
  void join();

  device::Ops& ops_;
  const store::Layout& layout_;
  const bool keeps_mean_;
  store::Writer* const writer_;
  Gathering& gathering_;
  const Slots slots_;
  device::Buffer scratch_;                   // selected rows on the device
  std::map<std::size_t, Record*> selected_;  // by point, that record_selected has begun
  std::atomic<double> waited_seconds_ = 0;
  std::atomic<bool> is_waiting_ = false;
  std::atomic<std::uint64_t> recorded_bytes_ = 0;

  BoundedQueue<Part> full_;
  BoundedQueue<std::byte*> free_;
  std::vector<device::Buffer> chunks_;  // the slots' memory; make_slots' alone
  std::atomic<bool> stopped_ = false;

  std::mutex mutex_;            // of what follows
  std::deque<Record> records_;  // in the order they were begun, until they and all before are written
  std::exception_ptr problem_;
  std::vector<std::thread> threads_;
};

}  // namespace layerprobe::capture
