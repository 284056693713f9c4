#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <vector>

#include "device/cpu/loops.h"
#include "device/cpu/memory.h"

namespace layerprobe::device::cpu {

/// The threads that share the tasks of a call, and the scratch memory of each.
class Workers {
 public:
  explicit Workers(int threads) : scratch_(static_cast<std::size_t>(threads)) {}

  std::int64_t count() const { return static_cast<std::int64_t>(scratch_.size()); }

  /// Of one thread; what an earlier call left there is lost. Throws Error(resource).
  void* scratch(int thread, std::int64_t bytes) { return scratch_[static_cast<std::size_t>(thread)].reserve(bytes); }

  /// Calls work(task, thread) for every task in [0, num_tasks), in any order. Throws the first exception that a task
  /// threw.
  template <typename Work>
  void for_each(std::int64_t num_tasks, Work&& work) {
    const auto threads = static_cast<int>(std::min(num_tasks, static_cast<std::int64_t>(scratch_.size())));
    if (threads <= 1) {
      for (std::int64_t task = 0; task < num_tasks; ++task) work(task, 0);
      return;
    }
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (std::int64_t task = 0; task < num_tasks; ++task) {
      try {
        work(task, omp_get_thread_num());
      } catch (...) {  // no exception may leave a parallel region
#pragma omp critical(layerprobe_workers_failure)
        if (!failure) failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
  }

  /// Calls work(rows) for shares of the rows of x.
  template <typename Work>
  void for_rows(const Tensor& x, Work&& work) {
    constexpr std::int64_t kElements = 16384;  // less is not worth another thread
    const std::int64_t share = std::max<std::int64_t>(1, kElements / x.columns);
    for_each((x.rows + share - 1) / share, [&](std::int64_t task, int) {
      work(Rows{task * share, std::min(x.rows, (task + 1) * share)});
    });
  }

 private:
  std::vector<Scratch> scratch_;
};

}  // namespace layerprobe::device::cpu
