// The whole program's run of a tiny model, cut off at every call by which it changes the disk.

#include <doctest/doctest.h>

#include <iostream>
#include <random>

#include "base/error.h"
#include "runtime/session.h"
#include "tests/support/disk_calls.h"
#include "tests/support/same_capture.h"
#include "tests/support/simulated_disk.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

namespace fs = std::filesystem;

void run(const test::TempFolder& model, const fs::path& folder, int* calls_until_stop = nullptr) {
  runtime::RunOptions options;
  options.model = model.path().string();
  options.request.test_type = plan::TestType::full;
  options.input.random_tokens = "5x7:1";
  options.tokens_per_batch = 14;
  options.output = (folder / "run.h5").string();
  options.if_exists = store::Writer::IfExists::resume;
  options.commit_every_seconds = 0;
  runtime::Watch watch;
  if (calls_until_stop != nullptr) watch.should_stop = [=] { return (*calls_until_stop)-- == 0; };
  runtime::run(options, watch);
}

}  // namespace

TEST_CASE("a run of a model that is cut off at any call is resumed to the bits of an undisturbed one") {
  const test::TempFolder model;
  test::write_tiny_model(model);
  const test::TempFolder temporary(test::memory_folder());
  const fs::path undisturbed = temporary / "undisturbed", folder = temporary / "disk";
  std::mt19937 random(1);
  for (const test::Medium medium : {test::Medium::memory, test::Medium::disk}) {
    test::set_medium(medium);
    const char* const where = medium == test::Medium::memory ? "in memory" : "on a disk";
    CAPTURE(where);
    test::lay({}, undisturbed);
    std::vector<test::DiskCall> calls;
    {
      const test::DiskCalls watch(undisturbed);
      run(model, undisturbed);
      calls = watch.calls();
    }
    test::SimulatedDisk disk({});
    std::size_t states = 0;
    for (std::size_t i = 0; i <= calls.size(); ++i) {
      CAPTURE(i);
      for (const test::DiskImage& state : {disk.after_kill(), disk.after_power_cut(0.5, random)}) {
        test::lay(state, folder);
        run(model, folder);
        test::check_same_capture(undisturbed / "run.h5", folder / "run.h5");
        ++states;
      }
      if (i < calls.size()) disk.apply(calls[i]);
    }
    std::cout << "a model's run: " << where << ": " << calls.size() << " calls, " << states << " crash points\n";
  }
}

TEST_CASE("a run that is asked to stop at any moment keeps what it has and is resumed to the same bits") {
  const test::TempFolder model;
  test::write_tiny_model(model);
  const test::TempFolder temporary(test::memory_folder());
  const fs::path undisturbed = temporary / "undisturbed";
  fs::create_directories(undisturbed);
  run(model, undisturbed);
  std::size_t stops = 0;
  for (bool stopped = true; stopped; ++stops) {
    CAPTURE(stops);
    const fs::path folder = temporary / "disk";
    test::lay({}, folder);
    auto calls_left = static_cast<int>(stops);
    stopped = false;
    try {
      run(model, folder, &calls_left);
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::interrupted);
      CHECK(std::string(error.what()).find("stopped as asked; ") != std::string::npos);
      CHECK(error.parts().fix == "give the same command with --resume to go on from there");
      CHECK_FALSE(fs::exists(folder / "run.h5"));
      stopped = true;
    }
    run(model, folder);
    test::check_same_capture(undisturbed / "run.h5", folder / "run.h5");
  }
  CHECK(stops > 20);
  std::cout << "asked to stop: " << stops - 1 << " moments\n";
}

}  // namespace layerprobe
