#include "capture/recorder.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace layerprobe::capture {
namespace {

constexpr std::size_t kSlotBytes = std::size_t{4} << 20;
constexpr std::size_t kNumSlots = 12;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Recorder::Recorder(device::Ops& ops, const store::Layout& layout, bool keeps_mean, store::Writer* writer,
                   std::chrono::duration<double> commit_every)
    : ops_(ops),
      layout_(layout),
      keeps_mean_(keeps_mean),
      writer_(writer),
      commit_every_(commit_every),
      statistics_(layout.points.size()),
      statistics_rows_(layout.points.size()),
      full_(4 * kNumSlots),
      free_(kNumSlots) {
  if (writer_ == nullptr) return;
  for (std::size_t i = 0; i < kNumSlots; ++i) free_.push({});  // each grows to its size at its first use
  thread_ = std::thread([this] { write_all(); });
}

Recorder::~Recorder() {
  full_.close();
  free_.close();
  if (thread_.joinable()) thread_.join();
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
  check_writer();
  const auto first = static_cast<std::size_t>(batch.first_prompt);
  const auto count = static_cast<std::size_t>(batch.num_prompts());
  per_prompt_.assign(count, Statistics{});
  if (!layout_.points[point].stored) {
    take_statistics(batch.cu_seqlens, value);
    complete(point, batch);
    return;
  }
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
  take_statistics(cu_rows, rows);
  copy_rows(point, first_row, rows);
  complete(point, batch);
}

void Recorder::record_selected(std::size_t point, const Batch& batch, std::int64_t first_row,
                               const device::Tensor& value, bool last) {
  check_writer();
  const auto first = static_cast<std::size_t>(batch.first_prompt);
  const auto count = static_cast<std::size_t>(batch.num_prompts());
  const std::int64_t batch_row = layout_.rows.cu_rows[first];
  if (first_row == 0) per_prompt_.assign(count, Statistics{});
  std::vector<std::int64_t> cu_rows(count + 1);  // of each prompt, within these rows
  for (std::size_t i = 0; i <= count; ++i) {
    cu_rows[i] = std::clamp<std::int64_t>(layout_.rows.cu_rows[first + i] - batch_row - first_row, 0, value.rows);
  }
  take_statistics(cu_rows, value);
  if (layout_.points[point].stored) copy_rows(point, batch_row + first_row, value);
  if (last) complete(point, batch);
}

void Recorder::take_statistics(std::span<const std::int64_t> cu_rows, const device::Tensor& value) {
  if (value.rows == 0) return;
  ops_.append_statistics({.out = per_prompt_, .x = value, .cu_rows = cu_rows});
  ops_.synchronize();
}

void Recorder::copy_rows(std::size_t point, std::int64_t first_row, const device::Tensor& value) {
  const std::size_t row_bytes = static_cast<std::size_t>(value.columns) * size_of(value.dtype);
  recorded_bytes_ += row_bytes * static_cast<std::size_t>(value.rows);
  if (writer_ == nullptr) return;
  const std::int64_t rows_a_slot = std::max<std::int64_t>(1, static_cast<std::int64_t>(kSlotBytes / row_bytes));
  for (std::int64_t row = 0; row < value.rows; row += rows_a_slot) {
    const std::int64_t count = std::min(rows_a_slot, value.rows - row);
    Item item;
    item.point = point;
    item.first_row = first_row + row;
    item.rows = free_slot();
    item.rows.resize(static_cast<std::size_t>(count) * row_bytes);
    ops_.copy_to_host(item.rows.data(), value.row_slice(row, count));
    push(std::move(item));
  }
}

void Recorder::complete(std::size_t point, const Batch& batch) {
  for (const Statistics& prompt : per_prompt_) {
    statistics_[point].append(prompt, statistics_rows_[point]);
    statistics_rows_[point] += prompt.count / layout_.points[point].point.width;
  }
  if (writer_ == nullptr) return;
  Item item;
  item.point = point;
  item.first_prompt = batch.first_prompt;
  item.per_prompt = per_prompt_;
  push(std::move(item));
}

std::vector<std::byte> Recorder::free_slot() {
  const auto start = std::chrono::steady_clock::now();
  std::optional<std::vector<std::byte>> slot = free_.pop();
  waited_seconds_ += seconds_since(start);
  check_writer();
  expect(slot.has_value(), "slots come back until the writer fails");
  return std::move(*slot);
}

void Recorder::push(Item item) {
  if (!full_.push(std::move(item))) check_writer();
}

void Recorder::write_all() {
  auto last_commit = std::chrono::steady_clock::now();
  try {
    while (std::optional<Item> item = full_.pop()) {
      if (item->rows.empty()) {
        for (std::size_t i = 0; i < item->per_prompt.size(); ++i) {
          const std::int64_t prompt = item->first_prompt + static_cast<std::int64_t>(i);
          writer_->write_statistics(item->point, prompt, item->per_prompt[i]);
          writer_->mark_complete(item->point, prompt);
        }
        if (std::chrono::steady_clock::now() - last_commit >= commit_every_) {
          writer_->commit();
          last_commit = std::chrono::steady_clock::now();
        }
      } else {
        writer_->write_rows(item->point, item->first_row, item->rows);
        free_.push(std::move(item->rows));
      }
    }
    writer_->commit();
  } catch (...) {
    {
      const std::lock_guard lock(problem_mutex_);
      problem_ = std::current_exception();
    }
    full_.close();  // whoever waits is woken and finds the problem
    free_.close();
  }
}

void Recorder::check_writer() {
  const std::lock_guard lock(problem_mutex_);
  if (problem_) std::rethrow_exception(problem_);
}

void Recorder::finish() {
  full_.close();
  if (thread_.joinable()) thread_.join();
  check_writer();
}

}  // namespace layerprobe::capture
