#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace layerprobe::store {

/// Sets the space of datasets aside ahead of their rows, in threads of its own: for files in memory, where that takes
/// as long as storing the rows.
///
/// A dataset's space grows from its first row on. The next to grow is the one that has space for the fewest rows, since
/// a run writes the same rows of each, batch after batch; before it comes one on which somebody waits, since a run may
/// also write dataset after dataset. Any thread.
class SpaceAhead {
 public:
  struct Dataset {
    std::uint64_t offset = 0, bytes = 0;
    std::uint64_t row_bytes = 1;
  };

  using Allocate = std::function<void(std::uint64_t offset, std::uint64_t bytes)>;  // as File::allocate; any thread

  SpaceAhead(Allocate allocate, const std::vector<Dataset>& datasets);
  /// Does not wait for more than the pieces in hand.
  ~SpaceAhead();

  /// Returns once the first `bytes` of the dataset have their space. Throws what a thread met, if one failed.
  void wait_for(std::size_t dataset, std::uint64_t bytes);
  /// Throws what a thread met, if one failed.
  void check();
  /// Ends the threads, as the destructor does. No more waiting.
  void stop();

  /// That threads spent in wait_for(), all together.
  double waited_seconds() const;

 private:
  struct Progress {
    Dataset dataset;
    std::uint64_t done = 0, wanted = 0;  // bytes, from its first
    bool is_growing = false;             // one thread at a time
  };

  void set_aside();
  Progress* next();

  const Allocate allocate_;
  mutable std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::vector<Progress> progress_;
  std::exception_ptr problem_;  // the first
  bool stopping_ = false;
  double waited_seconds_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace layerprobe::store
