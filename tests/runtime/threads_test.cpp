#include <dlfcn.h>
#include <doctest/doctest.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <system_error>

#include "runtime/session.h"
#include "tests/support/tiny_model.h"

// Sanitizers put a pthread_create of their own in its place.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

std::atomic<int> threads_left = -1;  // of std::thread's, until the system has no more; below 0: as many as are wanted

}  // namespace

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                              void* argument) noexcept {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto create = reinterpret_cast<Create>(::dlsym(RTLD_NEXT, "pthread_create"));
  const bool is_standard = attributes == nullptr;  // OpenMP gives some, and ends the program when it fails
  if (is_standard && threads_left >= 0 && threads_left-- == 0) return EAGAIN;
  return create(thread, attributes, run, argument);
}

namespace layerprobe {

TEST_CASE("a run for which the system has no more threads ends with what it says, whichever thread it is") {
  const test::TempFolder model, out;
  test::write_tiny_model(model);
  runtime::RunOptions options;
  options.model = model.path().string();
  options.input.random_tokens = "4x5";
  options.device_map = R"({"": "cpu:0", "model.layers.2": "cpu:1", "model.norm": "cpu:1"})";
  options.output = (out / "a.h5").string();
  options.if_exists = store::Writer::IfExists::overwrite;
  int refused = 0;
  bool has_run = false;
  for (int left = 0; left < 30 && !has_run; ++left) {
    CAPTURE(left);
    threads_left = left;
    try {
      runtime::run(options, {});
      has_run = threads_left >= 0;  // with some to spare
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::resource_unavailable_try_again);
      ++refused;
    }
    threads_left = -1;
  }
  CHECK(refused > 4);  // the two stages, and two at least that keep what each of them computes
  CHECK(has_run);
}

}  // namespace layerprobe

#endif
