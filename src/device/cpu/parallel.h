#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>

namespace layerprobe::device::cpu {

/// Calls work(task, thread) for every task in [0, num_tasks) on up to `threads` threads, in any order; thread is in
/// [0, threads). Throws the first exception that a task threw.
template <typename Work>
void parallel_for(int threads, std::int64_t num_tasks, Work&& work) {
  if (num_tasks <= 0) return;
  if (num_tasks < threads) threads = static_cast<int>(num_tasks);
  if (threads == 1) {
    for (std::int64_t task = 0; task < num_tasks; ++task) work(task, 0);
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (std::int64_t task = 0; task < num_tasks; ++task) {
    try {
      work(task, omp_get_thread_num());
    } catch (...) {  // no exception may leave a parallel region
#pragma omp critical(layerprobe_parallel_for_failure)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace layerprobe::device::cpu
