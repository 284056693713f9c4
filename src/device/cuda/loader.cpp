#include "device/cuda/loader.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "kernels/check.h"
#include "kernels/convert_values.h"

namespace layerprobe::device::cuda {
namespace {

using kernels::check;

constexpr std::size_t kMostThreads = 16;  // a core moves some 3 GB/s from a file's pages, the link 50
constexpr std::size_t kRooms = Loader::Means::kRooms;
constexpr std::size_t kPartAlignment = 256;
constexpr std::size_t kStagingBytes = LoadPlan::kPieceBytes + LoadPlan::kMostParts * kPartAlignment;
constexpr std::chrono::milliseconds kTellEvery{50};

/// What the threads of one loading share.
class Loading : public Loads {
 public:
  /// Starts them.
  Loading(Context& context, Loader& loader, std::vector<QueuedLoad> loads);
  ~Loading() override { join(); }
  Loading(const Loading&) = delete;
  Loading& operator=(const Loading&) = delete;

  void wait(const std::function<void(std::uint64_t bytes)>& read) override;

 private:
  class Reader;
  void work(std::size_t thread);
  /// The index of the next piece to read; nothing once all are taken or the loading ends.
  std::optional<std::size_t> take();
  void wait_and_tell(const std::function<void(std::uint64_t bytes)>& read);
  void join();

  Context& context_;
  Loader& loader_;
  const LoadPlan plan_;
  const std::string doing_;
  const std::size_t num_threads_, num_rooms_;
  std::vector<Loader::Means> means_;  // each thread's
  Event places_ready_;
  Buffer staging_;  // [num_threads_, kStagingBytes], for values on their way to be converted
  std::atomic<std::size_t> next_piece_ = 0;
  std::atomic<std::uint64_t> read_bytes_ = 0;
  std::atomic<bool> is_stopped_ = false;

  std::mutex mutex_;
  std::condition_variable has_ended_;
  std::size_t num_ended_ = 0;
  std::exception_ptr failure_;  // the first
  std::vector<std::thread> threads_;
};

/// One thread's work.
class Loading::Reader {
 public:
  Reader(Loading& loading, std::byte* staging, Loader::Means means)
      : loading_(loading), doing_(loading.doing_), staging_(staging), means_(std::move(means)) {
    check(cudaStreamWaitEvent(means_.stream.get(), loading.places_ready_.get(), 0), doing_);
  }
  ~Reader() {
    cudaStreamSynchronize(means_.stream.get());  // before the pages go
    loading_.loader_.give_back(std::move(means_));
  }

  void read_all() {
    const std::size_t room_bytes = loading_.plan_.room_bytes;
    std::size_t room = 0;
    for (std::optional<std::size_t> next = loading_.take(); next; next = loading_.take()) {
      const LoadPiece& piece = loading_.plan_.pieces[*next];
      check(cudaEventSynchronize(means_.is_free[room].get()), doing_);
      const std::byte* const bytes =
          read_piece(loading_.plan_.sources[piece.source], piece,
                     {static_cast<std::byte*>(means_.pages.data()) + room * room_bytes, room_bytes});
      std::size_t staged = 0;
      for (const LoadPart& part : piece.parts) send(piece, part, bytes, staged);
      check(cudaEventRecord(means_.is_free[room].get(), means_.stream.get()), doing_);
      loading_.read_bytes_ += piece.bytes;
      room = (room + 1) % loading_.num_rooms_;
    }
    check(cudaStreamSynchronize(means_.stream.get()), doing_);
  }

 private:
  /// Queues the way of one load's bytes; `bytes` is where those of the piece lie.
  void send(const LoadPiece& piece, const LoadPart& part, const std::byte* bytes, std::size_t& staged) {
    const QueuedLoad& load = loading_.plan_.loads[part.load];
    const StoredValues& values = load.values;
    const std::byte* const from = bytes + (values.offset + part.begin - piece.begin);
    const std::size_t count = static_cast<std::size_t>(part.end - part.begin);
    const bool copies = LoadPlan::is_copy(load);
    std::byte* const to = copies ? static_cast<std::byte*>(load.out.data) + part.begin : staging_ + staged;
    check(cudaMemcpyAsync(to, from, count, cudaMemcpyHostToDevice, means_.stream.get()), doing_);
    if (copies) return;
    staged += (count + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
    const StorageTraits& traits = traits_of(values.storage);
    const auto values_in = [&](std::uint64_t stored) {
      return static_cast<std::int64_t>(stored) / traits.block_bytes * traits.block_elements;
    };
    const bool is_bias = values.interleaved_heads != 0 && values.rows == 1;  // its values are what rows are elsewhere
    const std::int64_t rows = is_bias ? values.columns : values.rows, columns = is_bias ? 1 : values.columns;
    kernels::convert_values({.out = load.out.data,
                             .stored = to,
                             .row = values_in(part.begin) / columns,
                             .column = values_in(part.begin) % columns,
                             .num_values = values_in(count),
                             .columns = columns,
                             .row_stride = is_bias ? 1 : load.out.row_stride,
                             .head_dim = values.interleaved_heads == 0 ? 0 : rows / values.interleaved_heads,
                             .storage = values.storage,
                             .dtype = load.out.dtype},
                            means_.stream.get());
  }

  Loading& loading_;
  const std::string& doing_;
  std::byte* const staging_;  // [kStagingBytes]; none where nothing is converted
  Loader::Means means_;
};

Loading::Loading(Context& context, Loader& loader, std::vector<QueuedLoad> loads)
    : context_(context),
      loader_(loader),
      plan_(std::move(loads)),
      doing_(text("load weights to ", context.name())),
      num_threads_(
          std::min({kMostThreads, std::max<std::size_t>(std::thread::hardware_concurrency(), 1), plan_.pieces.size()})),
      num_rooms_(plan_.pieces.size() > num_threads_ ? kRooms : 1) {
  context.use();
  if (plan_.converts) staging_ = context.allocate(num_threads_ * kStagingBytes);
  check(cudaEventCreateWithFlags(places_ready_.out(), cudaEventDisableTiming), doing_);
  check(cudaEventRecord(places_ready_.get(), context.stream()), doing_);
  for (std::size_t i = 0; i < num_threads_; ++i) means_.push_back(loader_.take_means(num_rooms_ * plan_.room_bytes));
  try {
    for (std::size_t i = 0; i < num_threads_; ++i) threads_.emplace_back([this, i] { work(i); });
  } catch (...) {
    join();
    throw;
  }
}

std::optional<std::size_t> Loading::take() {
  if (is_stopped_) return std::nullopt;
  const std::size_t piece = next_piece_++;
  return piece < plan_.pieces.size() ? std::optional(piece) : std::nullopt;
}

void Loading::work(std::size_t thread) {
  try {
    context_.use();
    auto* const staging = static_cast<std::byte*>(staging_.data());
    Reader(*this, plan_.converts ? staging + thread * kStagingBytes : nullptr, std::move(means_[thread])).read_all();
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
    is_stopped_ = true;
  }
  const std::lock_guard lock(mutex_);
  ++num_ended_;
  has_ended_.notify_all();
}

void Loading::wait_and_tell(const std::function<void(std::uint64_t bytes)>& read) {
  std::uint64_t told = 0;
  std::unique_lock lock(mutex_);
  for (bool all_ended = false; !all_ended;) {
    all_ended = has_ended_.wait_for(lock, kTellEvery, [&] { return num_ended_ == num_threads_; });
    lock.unlock();
    const std::uint64_t so_far = read_bytes_;
    read(so_far - told);
    told = so_far;
    lock.lock();
  }
}

/// Threads have ended by themselves, or it ends them.
void Loading::join() {
  is_stopped_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Loading::wait(const std::function<void(std::uint64_t bytes)>& read) {
  try {
    wait_and_tell(read);
  } catch (...) {
    join();
    throw;
  }
  join();
  if (failure_) std::rethrow_exception(failure_);
}

/// Values that come from another GPU's memory.
class Copying : public Loads {
 public:
  Copying(const Context& context, Event arrived) : context_(context), arrived_(std::move(arrived)) {}
  ~Copying() override { cudaEventSynchronize(arrived_.get()); }
  Copying(const Copying&) = delete;
  Copying& operator=(const Copying&) = delete;

  void wait(const std::function<void(std::uint64_t bytes)>& read) override {
    wait_asleep(arrived_, text("copy weights to ", context_.name()));
    read(0);
  }

 private:
  const Context& context_;
  Event arrived_;
};

std::size_t row_bytes(const Tensor& tensor) { return static_cast<std::size_t>(tensor.columns) * size_of(tensor.dtype); }
std::size_t stride_bytes(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.row_stride) * size_of(tensor.dtype);
}

}  // namespace

void Loader::add(const Tensor& out, const StoredValues& values) { queued_.push_back({out, values}); }

std::unique_ptr<Loads> Loader::start() {
  places_.clear();
  for (const QueuedLoad& load : queued_) places_.push_back(load.out);
  return std::make_unique<Loading>(context_, *this, std::exchange(queued_, {}));
}

std::unique_ptr<Loads> Loader::start_copies(const Loader& donor) {
  const std::string doing = text("copy weights from ", donor.context_.name(), " to ", context_.name());
  expect(queued_.size() == donor.places_.size(), "both GPUs have the same weights");
  const cudaStream_t stream = context_.stream();
  for (std::size_t i = 0; i < queued_.size(); ++i) {  // each by itself: a copy is within one allocation
    const Tensor &to = queued_[i].out, &from = donor.places_[i];
    expect(to.rows == from.rows && row_bytes(to) == row_bytes(from), "both GPUs have the same weights in one order");
    if (to.is_contiguous() && from.is_contiguous()) {
      const std::size_t bytes = row_bytes(to) * static_cast<std::size_t>(to.rows);
      check(cudaMemcpyAsync(to.data, from.data, bytes, cudaMemcpyDefault, stream), doing);
    } else {
      check(cudaMemcpy2DAsync(to.data, stride_bytes(to), from.data, stride_bytes(from), row_bytes(to),
                              static_cast<std::size_t>(to.rows), cudaMemcpyDefault, stream),
            doing);
    }
  }
  places_.clear();
  queued_.clear();
  return std::make_unique<Copying>(context_, context_.record(stream));
}

Loader::Means Loader::take_means(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto fits = std::ranges::find_if(means_, [&](const Means& means) { return means.pages.bytes() >= bytes; });
    if (fits != means_.end()) {
      Means means = std::move(*fits);
      means_.erase(fits);
      return means;
    }
  }
  const std::string doing = text("load weights to ", context_.name());
  Means means;
  means.pages = context_.allocate_on_host(bytes);
  check(cudaStreamCreateWithFlags(means.stream.out(), cudaStreamNonBlocking), doing);
  for (Event& event : means.is_free) {
    check(cudaEventCreateWithFlags(event.out(), cudaEventDisableTiming | cudaEventBlockingSync), doing);
  }
  return means;
}

void Loader::give_back(Means means) {
  const std::lock_guard lock(mutex_);
  means_.push_back(std::move(means));
}

}  // namespace layerprobe::device::cuda
