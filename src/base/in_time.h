#pragma once

#include <chrono>
#include <future>
#include <optional>
#include <thread>
#include <utility>

namespace layerprobe {

/// What `act()` returns or throws; nothing when it has not ended after `most`. It then goes on in a thread that nobody
/// waits for: `act` holds by itself all that it works on.
template <typename Act>
auto in_time(std::chrono::milliseconds most, Act act) -> std::optional<decltype(act())> {
  std::packaged_task<decltype(act())()> task(std::move(act));
  std::future<decltype(act())> answer = task.get_future();
  std::thread thread(std::move(task));
  if (answer.wait_for(most) != std::future_status::ready) {
    thread.detach();
    return std::nullopt;
  }
  thread.join();
  return answer.get();
}

}  // namespace layerprobe
