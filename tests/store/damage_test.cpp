// Files of ours that were cut short or changed by a byte, through everything that opens them. A sample of the places in
// every run of the tests; all of them with LAYERPROBE_ALL_DAMAGE=1, which scripts/damage_h5 sets.
#include <doctest/doctest.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "cli/inspect.h"
#include "compare/compare.h"
#include "tests/fuzz/hdf5_blocks.h"
#include "tests/store/sample.h"
#include "tests/support/survive.h"

namespace layerprobe {
namespace {

namespace fs = std::filesystem;

constexpr std::array<int, 3> kFlips = {0xff, 0x01, 0x40};  // of bits, in a byte that is changed

bool try_all() { return std::getenv("LAYERPROBE_ALL_DAMAGE") != nullptr; }

/// A finished and a partial file of one run, and what a user does with them.
class Files {
 public:
  Files() {
    test::write_run(whole_, layout_);
    {
      store::Writer writer(folder_ / "half.h5", layout_, store::Writer::IfExists::refuse);
      test::write_prompt(writer, layout_, 1);
      writer.commit();
    }
    contents_ = {test::read_all(whole_), test::read_all(folder_ / "half.h5.partial")};
  }

  const std::string& contents(bool partial) const { return contents_[partial ? 1 : 0]; }

  /// inspect, compare and --resume of a file with these bytes: each answers or throws an Error.
  void use(bool partial, const std::string& bytes) const {
    const fs::path target = folder_ / "damaged.h5";
    const fs::path damaged = partial ? folder_ / "damaged.h5.partial" : target;
    fs::remove(target);
    test::write_all(damaged, bytes);
    std::optional<Error> refusal;
    const auto attempt = [&](auto action) {
      try {
        action();
      } catch (const Error& error) {
        if (error.kind() == ErrorKind::bug) throw;
        refusal = error;
      }
    };
    std::ostringstream printed;
    std::streambuf* const before = std::cout.rdbuf(printed.rdbuf());
    for (const bool json : {false, true}) attempt([&] { cli::inspect_capture(damaged, json); });
    std::cout.rdbuf(before);
    attempt([&] { compare::compare_runs(store::Reader(whole_), store::Reader(damaged), {}); });
    attempt([&] { compare::compare_runs(store::Reader(damaged), store::Reader(whole_), {}); });
    attempt([&] {
      store::Writer writer(target, layout_, store::Writer::IfExists::resume);
      if (writer.is_finished()) return;
      for (std::int64_t prompt = 0; prompt < layout_.prompts.num_prompts(); ++prompt) {
        test::write_prompt(writer, layout_, prompt);
      }
      test::write_texts_and_finish(writer);
      const store::Reader resumed(target);
    });
    if (refusal) throw *refusal;
  }

 private:
  static fs::path memory() { return fs::exists("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path(); }

  test::TempFolder folder_{memory()};
  store::Layout layout_ = test::sample_layout();
  fs::path whole_ = folder_ / "whole.h5";
  std::array<std::string, 2> contents_;
};

void report(const std::string& what, std::size_t count, const test::Survived& survived) {
  CHECK(survived.answered + survived.refused + survived.fatal.size() == count);
  for (const std::string& fatal : survived.fatal) FAIL_CHECK(what << ": " << fatal);
  MESSAGE(what << ": " << count << " tried, " << survived.refused << " refused, " << survived.answered
               << " without consequence, " << survived.fatal.size() << " crashed or hung");
}

}  // namespace

TEST_CASE("inspect, compare and --resume answer on a file that was cut short anywhere") {
  const Files files;
  for (const bool partial : {false, true}) {
    const std::string& bytes = files.contents(partial);
    const std::size_t step = try_all() ? 1 : 797;
    const std::size_t count = (bytes.size() + step - 1) / step;
    const test::Survived survived =
        test::survive(count, [&](std::size_t i) { files.use(partial, bytes.substr(0, i * step)); });
    CHECK(survived.refused == count);
    report(partial ? "partial file cut short" : "finished file cut short", count, survived);
  }
}

TEST_CASE("inspect, compare and --resume answer on a file with any one byte changed") {
  const Files files;
  for (const bool partial : {false, true}) {
    const std::string& bytes = files.contents(partial);
    std::vector<std::size_t> places;  // of the zeros that fill most of the file, few
    for (std::size_t at = 0; at < bytes.size(); at += try_all() ? 1 : bytes[at] == '\0' ? 797 : 61)
      places.push_back(at);
    const std::size_t count = places.size() * kFlips.size();
    const test::Survived survived = test::survive(count, [&](std::size_t i) {
      std::string changed = bytes;
      changed[places[i / kFlips.size()]] ^= static_cast<char>(kFlips[i % kFlips.size()]);
      files.use(partial, changed);
    });
    CHECK(survived.refused > 0);
    CHECK(survived.answered > 0);
    report(partial ? "partial file with a byte changed" : "finished file with a byte changed", count, survived);
  }
}

TEST_CASE("inspect, compare and --resume answer on metadata that was changed under a right checksum") {
  const Files files;
  for (const bool partial : {false, true}) {
    const std::string& bytes = files.contents(partial);
    struct Place {
      fuzz::Hdf5Block block;
      std::size_t at;
    };
    std::vector<Place> places;
    for (const fuzz::Hdf5Block& block : fuzz::hdf5_blocks_of(bytes)) {
      for (std::size_t at = block.begin; at < block.end; at += try_all() ? 1 : bytes[at] == '\0' ? 199 : 13) {
        places.push_back({block, at});
      }
    }
    CHECK(places.size() > 200);
    const std::size_t count = places.size() * kFlips.size();
    const test::Survived survived = test::survive(count, [&](std::size_t i) {
      const Place& place = places[i / kFlips.size()];
      std::string changed = bytes;
      changed[place.at] ^= static_cast<char>(kFlips[i % kFlips.size()]);
      fuzz::set_checksum(changed, place.block);
      files.use(partial, changed);
    });
    CHECK(survived.refused > 0);
    report(partial ? "partial file, checksum made right" : "finished file, checksum made right", count, survived);
  }
}

TEST_CASE("a crash, a hang's end and an exception of ours are findings, not the end of the tests") {
  const test::Survived survived = test::survive(5, [](std::size_t i) {
    if (i == 1) ::abort();
    if (i == 2) expect(false, "a promise that is broken");
    if (i == 3) throw Error({.kind = ErrorKind::input, .where = "w", .what = "x"});
    if (i == 4) ::raise(SIGALRM);
  });
  CHECK(survived.answered == 1);
  CHECK(survived.refused == 1);
  CHECK(survived.fatal ==
        std::vector<std::string>{"case 1: signal 6", "case 2: an exception that tells nobody", "case 4: signal 14"});
}

}  // namespace layerprobe
