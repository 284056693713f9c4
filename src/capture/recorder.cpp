#include "capture/recorder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"

namespace layerprobe::capture {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kSmallSlotBytes = std::size_t{4} << 20;  // copies of this size go at the bus's rate
constexpr std::size_t kSlotBytes = std::size_t{16} << 20;      // and of this size are fewer, where there is room
constexpr std::size_t kManySlots = 32;
constexpr std::size_t kLeastSlots = 3;  // one is filled, one waits, one is written
constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kSlotsAtOnce = 4;  // in one piece of pinned memory

std::size_t row_bytes(const store::Layout::Point& point) {
  return static_cast<std::size_t>(point.point.width) * size_of(point.point.dtype);
}

/// Of the rows that the file holds in all.
std::size_t stored_bytes(const store::Layout& layout) {
  std::size_t bytes = 0;
  for (const store::Layout::Point& point : layout.points) {
    if (point.stored) bytes += row_bytes(point) * static_cast<std::size_t>(layout.rows.num_rows());
  }
  return bytes;
}

std::size_t longest_row(const store::Layout& layout) {
  std::size_t bytes = 0;
  for (const store::Layout::Point& point : layout.points) bytes = std::max(bytes, row_bytes(point));
  return bytes;
}

}  // namespace

/// A slot holds whole rows, and has room to put them where a page begins.
Recorder::Slots Recorder::slots_of(std::size_t ring_bytes, const store::Layout& layout) {
  const std::size_t row = longest_row(layout), all = row * static_cast<std::size_t>(layout.rows.num_rows());
  const std::size_t good = ring_bytes / kSlotBytes < kManySlots ? kSmallSlotBytes : kSlotBytes;
  const std::size_t rows = std::max(row, std::min(good, all));
  const std::size_t bytes = (rows + 2 * kPageBytes - 1) / kPageBytes * kPageBytes;
  const std::size_t needed = stored_bytes(layout) / rows + layout.points.size();
  return {.bytes = bytes, .count = std::max(kLeastSlots, std::min(ring_bytes / bytes, needed))};
}

void Gathering::commit_if_due() {
  if (writer_ == nullptr) return;
  const std::unique_lock lock(commit_mutex_, std::try_to_lock);
  if (!lock || Clock::now() - last_commit_ < commit_every_) return;
  writer_->commit();
  last_commit_ = Clock::now();
}

void Gathering::commit() {
  if (writer_ == nullptr) return;
  const std::lock_guard lock(commit_mutex_);
  writer_->commit();
  last_commit_ = Clock::now();
}

void Gathering::add(std::size_t point, std::int64_t first_prompt, std::span<const Statistics> prompts) {
  const std::lock_guard lock(mutex_);
  Point& to = points_[point];
  to.waiting.emplace(first_prompt, std::vector<Statistics>(prompts.begin(), prompts.end()));
  for (auto next = to.waiting.begin(); next != to.waiting.end() && next->first == to.next_prompt;
       next = to.waiting.erase(next)) {
    for (const Statistics& prompt : next->second) {
      to.all.append(prompt, to.rows);
      to.rows += prompt.count / widths_[point];
    }
    to.next_prompt += static_cast<std::int64_t>(next->second.size());
  }
}

std::vector<Statistics> Gathering::statistics() const {
  const std::lock_guard lock(mutex_);
  std::vector<Statistics> out;
  for (const Point& point : points_) {
    expect(point.waiting.empty(), "statistics of every prompt have come");
    out.push_back(point.all);
  }
  return out;
}

Recorder::Recorder(device::Ops& ops, const store::Layout& layout, bool keeps_mean, store::Writer* writer,
                   Gathering& gathering, std::size_t ring_bytes)
    : ops_(ops),
      layout_(layout),
      keeps_mean_(keeps_mean),
      writer_(writer),
      gathering_(gathering),
      slots_(slots_of(ring_bytes > 0 ? ring_bytes : ops.capture_resources().ring_bytes, layout)),
      full_(2 * slots_.count),
      free_(slots_.count) {
  try {
    for (int i = 0; i < ops.capture_resources().writers; ++i) threads_.emplace_back([this] { write_parts(); });
  } catch (...) {  // the system has no more
    join();
    throw;
  }
}

void Recorder::start_slots() {
  threads_.emplace_back([this] { make_slots(); });
}

Recorder::~Recorder() {
  join();
  if (writer_ == nullptr || problem_) return;
  try {
    gathering_.commit();
  } catch (const Error&) {  // what was committed before stays
  }
}

std::vector<std::int32_t> Recorder::selected_rows(const Batch& batch) const {
  std::vector<std::int32_t> out;
  for (std::int64_t i = 0; i < batch.num_prompts(); ++i) {
    const auto prompt = static_cast<std::size_t>(batch.first_prompt + i);
    for (std::int64_t row = layout_.rows.cu_rows[prompt]; row < layout_.rows.cu_rows[prompt + 1]; ++row) {
      const std::int32_t position = layout_.rows.position[static_cast<std::size_t>(row)];
      const auto start = static_cast<std::int32_t>(batch.cu_seqlens[static_cast<std::size_t>(i)]);
      out.push_back(position < 0 ? -1 : start + position);
    }
  }
  return out;
}

void Recorder::record(std::size_t point, const Batch& batch, const device::Tensor& value) {
  check_writers();
  Record& record = begin_record(point, batch);
  if (!layout_.points[point].stored) {
    take_statistics(record, batch.cu_seqlens, value);
    end_record(record);
    return;
  }
  const auto first = static_cast<std::size_t>(batch.first_prompt);
  const auto count = static_cast<std::size_t>(batch.num_prompts());
  const std::int64_t first_row = layout_.rows.cu_rows[first];
  const std::int64_t num_rows = layout_.rows.cu_rows[first + count] - first_row;
  device::Tensor rows = value;
  if (keeps_mean_ || num_rows != batch.num_tokens()) {
    const Dtype dtype = keeps_mean_ ? Dtype::f32 : value.dtype;
    const std::size_t bytes = static_cast<std::size_t>(num_rows * value.columns) * size_of(dtype);
    if (scratch_.bytes() < bytes) scratch_ = ops_.allocate(bytes);
    rows = device::Tensor::contiguous(scratch_.data(), dtype, num_rows, value.columns);
    if (keeps_mean_) {
      ops_.mean_rows({.out = rows, .x = value, .cu_seqlens = batch.cu_seqlens});
    } else {
      const std::vector<std::int32_t> selected = selected_rows(batch);
      ops_.embedding({.out = rows, .weight = value, .input_ids = selected});
    }
  }
  std::vector<std::int64_t> cu_rows(count + 1);
  for (std::size_t i = 0; i <= count; ++i) cu_rows[i] = layout_.rows.cu_rows[first + i] - first_row;
  take_statistics(record, cu_rows, rows);
  copy_rows(record, first_row, rows);
  end_record(record);
}

void Recorder::record_selected(std::size_t point, const Batch& batch, std::int64_t first_row,
                               const device::Tensor& value, bool last) {
  check_writers();
  const auto first = static_cast<std::size_t>(batch.first_prompt);
  const auto count = static_cast<std::size_t>(batch.num_prompts());
  const std::int64_t batch_row = layout_.rows.cu_rows[first];
  if (first_row == 0) selected_[point] = &begin_record(point, batch);
  Record& record = *selected_[point];
  std::vector<std::int64_t> cu_rows(count + 1);  // of each prompt, within these rows
  for (std::size_t i = 0; i <= count; ++i) {
    cu_rows[i] = std::clamp<std::int64_t>(layout_.rows.cu_rows[first + i] - batch_row - first_row, 0, value.rows);
  }
  take_statistics(record, cu_rows, value);
  if (layout_.points[point].stored) copy_rows(record, batch_row + first_row, value);
  if (last) end_record(record);
}

Recorder::Record& Recorder::begin_record(std::size_t point, const Batch& batch) {
  const std::lock_guard lock(mutex_);
  return records_.emplace_back(
      Record{.point = point,
             .first_prompt = batch.first_prompt,
             .per_prompt = std::vector<Statistics>(static_cast<std::size_t>(batch.num_prompts()))});
}

void Recorder::take_statistics(Record& record, std::span<const std::int64_t> cu_rows, const device::Tensor& value) {
  if (value.rows > 0) ops_.append_statistics({.out = record.per_prompt, .x = value, .cu_rows = cu_rows});
}

void Recorder::copy_rows(Record& record, std::int64_t first_row, const device::Tensor& value) {
  const std::size_t bytes_a_row = static_cast<std::size_t>(value.columns) * size_of(value.dtype);
  recorded_bytes_ += bytes_a_row * static_cast<std::size_t>(value.rows);
  const auto rows_a_slot = static_cast<std::int64_t>((slots_.bytes - kPageBytes) / bytes_a_row);
  for (std::int64_t row = 0; row < value.rows; row += rows_a_slot) {
    const std::int64_t count = std::min(rows_a_slot, value.rows - row);
    Part part{.record = &record, .first_row = first_row + row, .slot = free_slot()};
    // Pages of memory and of the file begin at the same rows, so that a disk can be given whole pages.
    const std::size_t in_page =
        writer_ == nullptr ? 0 : writer_->offset_of_row(record.point, part.first_row) % kPageBytes;
    part.rows = std::span(part.slot + in_page, static_cast<std::size_t>(count) * bytes_a_row);
    ops_.start_copy_to_host(part.rows.data(), value.row_slice(row, count));
    {
      const std::lock_guard lock(mutex_);
      ++record.parts_left;
    }
    push(std::move(part));
  }
}

/// Nothing more of it will be recorded: the part that stood for that comes behind all that was queued for the record.
void Recorder::end_record(Record& record) { push({.record = &record}); }

void Recorder::push(Part part) {
  part.arrived = ops_.mark();
  if (!full_.push(std::move(part))) check_writers();
}

std::byte* Recorder::free_slot() {
  const Clock::time_point start = Clock::now();
  is_waiting_ = true;
  const std::optional<std::byte*> slot = free_.pop();
  is_waiting_ = false;
  waited_seconds_ = waited_seconds_ + std::chrono::duration<double>(Clock::now() - start).count();
  check_writers();
  expect(slot.has_value(), "slots come back until a writer fails");
  return *slot;
}

void Recorder::make_slots() {
  std::size_t made = 0;
  try {
    while (made < slots_.count && !stopped_) {
      const std::size_t count = std::min(kSlotsAtOnce, slots_.count - made);
      const device::Buffer& chunk = chunks_.emplace_back(ops_.allocate_on_host(count * slots_.bytes));
      for (std::size_t i = 0; i < count; ++i) free_.push(static_cast<std::byte*>(chunk.data()) + i * slots_.bytes);
      made += count;
    }
  } catch (const Error&) {
    if (made < kLeastSlots) stop(std::current_exception());  // else a smaller ring has to do
  }
}

void Recorder::write_parts() {
  try {
    while (std::optional<Part> part = full_.pop()) {
      wait_for(*part);
      if (!part->rows.empty()) {
        if (writer_ != nullptr) writer_->write_rows(part->record->point, part->first_row, part->rows);
        free_.push(part->slot);
      }
      finish_part(*part);
      gathering_.commit_if_due();
    }
  } catch (...) {
    stop(std::current_exception());
  }
}

/// A device fails when it comes to the work, which may be layers after the call; the point says how far it came.
void Recorder::wait_for(const Part& part) const {
  try {
    part.arrived->wait();
  } catch (const Error& error) {
    throw error.within(layout_.points[part.record->point].point.name);
  }
}

void Recorder::finish_part(const Part& part) {
  Record& record = *part.record;
  std::unique_lock lock(mutex_);
  if (record.parts_left > 1) {
    --record.parts_left;
    return;
  }
  lock.unlock();
  for (std::size_t i = 0; writer_ != nullptr && i < record.per_prompt.size(); ++i) {
    const std::int64_t prompt = record.first_prompt + static_cast<std::int64_t>(i);
    writer_->write_statistics(record.point, prompt, record.per_prompt[i]);
    writer_->mark_complete(record.point, prompt);
  }
  if (writer_ == nullptr) gathering_.add(record.point, record.first_prompt, record.per_prompt);
  lock.lock();
  record.parts_left = 0;
  while (!records_.empty() && records_.front().parts_left == 0) records_.pop_front();
}

/// Whoever waits is woken and finds the problem.
void Recorder::stop(std::exception_ptr problem) {
  {
    const std::lock_guard lock(mutex_);
    if (!problem_) problem_ = std::move(problem);
  }
  stopped_ = true;
  full_.close();
  free_.close();
}

void Recorder::check_writers() {
  const std::lock_guard lock(mutex_);
  if (problem_) std::rethrow_exception(problem_);
}

void Recorder::join() {
  stopped_ = true;  // no more slots
  full_.close();    // what is in it is still written
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Recorder::finish() {
  join();
  check_writers();
  gathering_.commit();
}

}  // namespace layerprobe::capture
