// Every place at which a run's writing can be cut off: by a kill, by a power cut, by a disk that refuses. Prints how
// many there were.

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <functional>
#include <iostream>
#include <random>
#include <set>

#include "base/error.h"
#include "store/measures.h"
#include "tests/store/sample.h"
#include "tests/support/disk_calls.h"
#include "tests/support/simulated_disk.h"

namespace layerprobe {
namespace {

namespace fs = std::filesystem;
using store::Reader;
using store::Writer;
using IfExists = store::Writer::IfExists;
using Kind = test::DiskCall::Kind;

constexpr const char* kFile = "run.h5";
constexpr const char* kPartial = "run.h5.partial";

/// The sample, and a point whose rows are long enough to be written past the page cache, and no whole pages.
store::Layout sample_layout() {
  store::Layout layout = test::sample_layout();
  layout.points.push_back({.point = {.name = "model.layers.2", .dtype = Dtype::f32, .width = 20001}});
  return layout;
}

/// The same in everything but what it is a run of.
store::Layout another_layout() {
  store::Layout layout = sample_layout();
  layout.identity["model_hash"] = store::Attribute{std::string("another")};
  return layout;
}

bool is_complete(const Writer& writer, std::int64_t prompt) {
  for (std::size_t point = 0; point < sample_layout().points.size(); ++point) {
    if (!writer.is_complete(point, prompt)) return false;
  }
  return true;
}

/// The sample run, `prompts` of it, each committed by itself, and finished when that is all.
void write_sample(const fs::path& path, IfExists if_exists, std::int64_t prompts = 3) {
  const store::Layout layout = sample_layout();
  Writer writer(path, layout, if_exists);
  if (writer.is_finished()) return;
  for (std::int64_t prompt = 0; prompt < prompts; ++prompt) {
    if (is_complete(writer, prompt)) continue;
    test::write_prompt(writer, layout, prompt);
    writer.commit();
  }
  if (prompts == 3) test::write_texts_and_finish(writer);
}

/// Runs that meet the disk in different states.
struct Scenario {
  const char* name;
  std::function<void(const fs::path& file)> before;
  IfExists if_exists;
};

const std::vector<Scenario> kScenarios = {
    {"a new run", [](const fs::path&) {}, IfExists::resume},
    {"a run that goes on", [](const fs::path& file) { write_sample(file, IfExists::refuse, 1); }, IfExists::resume},
    {"a run that replaces another's finished file",
     [](const fs::path& file) { test::write_run(file, another_layout()); }, IfExists::overwrite},
    {"a run that replaces another's partial file",
     [](const fs::path& file) { Writer(file, another_layout(), IfExists::refuse); }, IfExists::overwrite},
};

bool is_of_another(const Reader& reader) {
  return reader.attributes().at("model_hash") == another_layout().identity.at("model_hash");
}

/// Whatever the file says is complete is there, to the bit.
void check_claims(const Reader& reader) {
  const store::Layout layout = sample_layout();
  REQUIRE(reader.points().size() == layout.points.size());
  const Reader::TopK top_k = reader.top_k();
  for (std::size_t point = 0; point < layout.points.size(); ++point) {
    CAPTURE(point);
    const bool stored = layout.points[point].stored;
    const auto& cu = stored ? layout.rows.cu_rows : layout.prompts.cu_seqlens;
    Statistics expected;
    for (std::int64_t prompt = 0; prompt < 3; ++prompt) {
      CAPTURE(prompt);
      if (!reader.is_complete(point, prompt)) continue;
      const std::int64_t first_row = cu[static_cast<std::size_t>(prompt)];
      expected.append(test::sample_statistics(layout, point, prompt), first_row);
      if (!stored) continue;
      const std::int64_t rows = test::rows_of(layout, point, prompt);
      std::vector<std::byte> found(test::sample_rows(layout, point, first_row, rows).size());
      reader.read_rows(point, first_row, rows, found);
      REQUIRE(found == test::sample_rows(layout, point, first_row, rows));
      for (std::int64_t row = first_row; row < first_row + rows; ++row) {
        REQUIRE(top_k.ids[static_cast<std::size_t>(2 * row)] == 100 + row);
      }
    }
    for (const store::Measure& measure : store::kMeasures) {
      REQUIRE(measure.bits_of(reader.statistics(point)) == measure.bits_of(expected));
    }
  }
}

/// What is there under the two names keeps what store/format.h promises.
void check_promise(const fs::path& folder, const test::DiskImage& before) {
  if (fs::exists(folder / kFile)) {
    const Reader reader(folder / kFile);
    REQUIRE(reader.is_finished());
    if (is_of_another(reader)) {
      REQUIRE(test::read_all(folder / kFile) == before.at(kFile));
    } else {
      REQUIRE(reader.complete_bytes() == reader.capture_bytes());
      check_claims(reader);
    }
  } else {
    REQUIRE_FALSE(before.contains(kFile));
  }
  if (!fs::exists(folder / kPartial)) return;
  const Reader reader(folder / kPartial);
  if (!is_of_another(reader)) check_claims(reader);
}

/// The command is given again, as its message says; then all is there.
void check_that_it_goes_on(const fs::path& folder, IfExists if_exists) {
  const bool has_partial = fs::exists(folder / kPartial) && !is_of_another(Reader(folder / kPartial));
  const bool is_done = fs::exists(folder / kFile) && !is_of_another(Reader(folder / kFile));
  write_sample(folder / kFile, has_partial || is_done ? IfExists::resume : if_exists);
  const Reader reader(folder / kFile);
  REQUIRE(reader.is_finished());
  REQUIRE(reader.complete_bytes() == reader.capture_bytes());
  check_claims(reader);
  REQUIRE(reader.top_k().texts[7] == "<153>");
  REQUIRE_FALSE(fs::exists(folder / kPartial));
}

void check_state(const test::DiskImage& state, const test::DiskImage& before, IfExists if_exists,
                 const fs::path& folder) {
  test::lay(state, folder);
  check_promise(folder, before);
  check_that_it_goes_on(folder, if_exists);
}

test::DiskCall first_half_of(test::DiskCall write) {
  write.bytes.resize(write.bytes.size() / 2);
  return write;
}

constexpr std::array<std::pair<test::Medium, const char*>, 2> kMedia = {
    {{test::Medium::memory, "in memory"}, {test::Medium::disk, "on a disk"}}};

/// A scenario, the files that it starts from, and the calls that its run makes.
struct Recorded {
  const Scenario& scenario;
  const char* where;
  test::DiskImage before;
  std::vector<test::DiskCall> calls;
};

/// Records each scenario, on each medium, in `folder` and hands it on. Those that replace a file differ from a new run
/// in names alone, which are the same on all media.
void for_each_scenario(const fs::path& folder, const std::function<void(const Recorded&)>& visit) {
  for (const auto& [medium, where] : kMedia) {
    test::set_medium(medium);
    CAPTURE(where);
    for (const Scenario& scenario : kScenarios) {
      if (medium == test::Medium::memory && scenario.if_exists == IfExists::overwrite) continue;
      CAPTURE(scenario.name);
      test::lay({}, folder);
      scenario.before(folder / kFile);
      Recorded recorded{.scenario = scenario, .where = where, .before = test::image_of(folder), .calls = {}};
      {
        const test::DiskCalls watch(folder);
        write_sample(folder / kFile, scenario.if_exists);
        recorded.calls = watch.calls();
      }
      visit(recorded);
    }
  }
}

/// Writes once more from where the scenario starts; false when the fault's moment did not come.
bool run_with_fault(const fs::path& folder, const Recorded& recorded, test::DiskFault fault,
                    const std::function<void()>& write) {
  test::lay(recorded.before, folder);
  const test::DiskCalls watch(folder, fault);
  write();
  return watch.has_failed();
}

}  // namespace

TEST_CASE("a run killed between any two calls, or within a write, leaves what is promised and goes on") {
  const test::TempFolder temporary(test::memory_folder());
  const fs::path folder = temporary / "disk";
  for_each_scenario(folder, [&](const Recorded& recorded) {
    const auto& [scenario, where, before, calls] = recorded;
    test::SimulatedDisk disk(before);
    std::size_t states = 0;
    for (std::size_t i = 0; i <= calls.size(); ++i) {
      CAPTURE(i);
      check_state(disk.after_kill(), before, scenario.if_exists, folder);
      ++states;
      if (i == calls.size()) break;
      if (calls[i].has_bytes() && calls[i].bytes.size() > 1) {
        test::SimulatedDisk torn = disk;
        torn.apply(first_half_of(calls[i]));
        check_state(torn.after_kill(), before, scenario.if_exists, folder);
        ++states;
      }
      disk.apply(calls[i]);
    }
    std::cout << "killed: " << where << ": " << scenario.name << ": " << calls.size() << " calls, " << states
              << " crash points\n";
  });
}

TEST_CASE("a power cut between any two calls leaves what is promised, and the run goes on") {
  const test::TempFolder temporary(test::memory_folder());
  const fs::path folder = temporary / "disk";
  std::mt19937 random(1);
  for_each_scenario(folder, [&](const Recorded& recorded) {
    const auto& [scenario, where, before, calls] = recorded;
    test::SimulatedDisk disk(before);
    std::size_t states = 0;
    for (std::size_t i = 0; i <= calls.size(); ++i) {
      CAPTURE(i);
      for (const double probability : {0.0, 0.5}) {
        CAPTURE(probability);
        check_state(disk.after_power_cut(probability, random), before, scenario.if_exists, folder);
        ++states;
      }
      if (i < calls.size()) disk.apply(calls[i]);
    }
    std::cout << "power cut: " << where << ": " << scenario.name << ": " << calls.size() << " calls, " << states
              << " crash points\n";
  });
}

TEST_CASE("a call that is interrupted, refused or does half of its work is made again, and nothing is lost") {
  const test::TempFolder temporary(test::memory_folder());
  const fs::path folder = temporary / "disk";
  std::size_t faults = 0;
  for_each_scenario(folder, [&](const Recorded& recorded) {
    const IfExists if_exists = recorded.scenario.if_exists;
    for (const int error : {EINTR, EINVAL, 0}) {
      CAPTURE(error);
      for (std::size_t i = 0;; ++i) {
        CAPTURE(i);
        const test::DiskFault fault{.call = i, .error = error};
        if (!run_with_fault(folder, recorded, fault, [&] { write_sample(folder / kFile, if_exists); })) break;
        check_promise(folder, recorded.before);
        REQUIRE(Reader(folder / kFile).is_finished());
        ++faults;
      }
    }
  });
  std::cout << "interrupted, refused or cut short: " << faults << " calls\n";
}

TEST_CASE("a call that fails ends the run with the reason, what is promised is there, and the run goes on") {
  const test::TempFolder temporary(test::memory_folder());
  const fs::path folder = temporary / "disk";
  std::size_t faults = 0;
  for_each_scenario(folder, [&](const Recorded& recorded) {
    const IfExists if_exists = recorded.scenario.if_exists;
    for (const int error : {ENOSPC, EIO}) {
      CAPTURE(error);
      for (std::size_t i = 0;; ++i) {
        CAPTURE(i);
        std::string what;
        const auto write = [&] {
          try {
            write_sample(folder / kFile, if_exists);
          } catch (const Error& failure) {
            CHECK(failure.kind() == ErrorKind::resource);
            CHECK_FALSE(failure.parts().fix.empty());
            what = failure.what();
          }
        };
        if (!run_with_fault(folder, recorded, {.call = i, .error = error}, write)) break;
        CAPTURE(what);
        CHECK_FALSE(what.empty());
        check_promise(folder, recorded.before);
        check_that_it_goes_on(folder, if_exists);
        ++faults;
      }
    }
  });
  std::cout << "failing: " << faults << " calls\n";
}

TEST_CASE("rows go through a mapping in memory, past the page cache on a disk, and no page goes both ways") {
  const test::TempFolder temporary(test::memory_folder());
  const fs::path folder = temporary / "disk";
  for_each_scenario(folder, [&](const Recorded& recorded) {
    std::set<std::pair<int, std::uint64_t>> direct, cached;  // pages of files
    std::size_t stores = 0;
    for (const test::DiskCall& call : recorded.calls) {
      stores += call.kind == Kind::store ? 1 : 0;
      if (call.kind != Kind::write) continue;
      if (call.is_direct) REQUIRE((call.offset % 4096 == 0 && call.bytes.size() % 4096 == 0));
      for (std::uint64_t page = call.offset / 4096; page * 4096 < call.offset + call.bytes.size(); ++page) {
        (call.is_direct ? direct : cached).insert({call.file, page});
      }
    }
    const bool is_on_disk = recorded.where == kMedia[1].second;
    CHECK(direct.empty() != is_on_disk);
    CHECK((stores == 0) == is_on_disk);
    for (const auto& page : direct) CHECK_FALSE(cached.contains(page));
  });
}

TEST_CASE("a disk that knows no direct writes is written through the page cache") {
  const test::TempFolder temporary(test::memory_folder());
  test::set_medium(test::Medium::disk_without_direct_writes);
  write_sample(temporary / kFile, IfExists::refuse);
  check_promise(temporary.path(), {});
  CHECK(fs::exists(temporary / kFile));
}

}  // namespace layerprobe
