#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "base/sha256.h"
#include "check/disk.h"
#include "check/host.h"
#include "check/model.h"
#include "tests/support/places.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {
namespace {

namespace fs = std::filesystem;
using check::Item;
using check::Items;
using check::Status;

const Item* find(const Items& items, std::string_view name) {
  for (const Item& item : items) {
    if (item.name == name) return &item;
  }
  return nullptr;
}

/// A copy of a small checkpoint of seven shards.
struct Shards {
  Shards() {
    fs::copy(test::root_folder() / "tests/data/parity/llama-mqa-bias-f16-sharded", folder.path(),
             fs::copy_options::overwrite_existing | fs::copy_options::recursive);
  }
  fs::path shard(int number) const {
    return folder / ("model-0000" + std::to_string(number) + "-of-00007.safetensors").c_str();
  }
  test::TempFolder folder;
};

/// A cache as the Hub's client makes it, with one model whose weights have a SHA-256.
struct HubCache {
  HubCache() {
    test::write_tiny_model(plain);
    const fs::path weights = plain / "model.safetensors";
    Sha256 sha;
    sha.add(read_text_file(weights));
    const fs::path repository = folder / "models--org--tiny";
    blob = repository / "blobs" / sha.hex();
    snapshot = repository / "snapshots" / "abc";
    fs::create_directories(blob.parent_path());
    fs::create_directories(snapshot);
    fs::copy_file(weights, blob);
    fs::copy_file(plain / "config.json", snapshot / "config.json");
    fs::create_symlink("../../blobs/" + blob.filename().string(), snapshot / "model.safetensors");
  }
  test::TempFolder plain, folder;
  fs::path blob, snapshot;
};

void flip_last_byte(const fs::path& path) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(-1, std::ios::end);
  const auto byte = static_cast<char>(file.get() ^ 1);
  file.seekp(-1, std::ios::end);
  file.put(byte);
}

void no_progress(std::uint64_t, std::uint64_t) {}

}  // namespace

TEST_CASE("a host that gives too little is told with what to ask for") {
  const check::HostState good{.total_bytes = 500'000'000'000,
                              .available_bytes = 400'000'000'000,
                              .group_limit_bytes = {},
                              .group_used_bytes = 0,
                              .locked_limit_bytes = {},
                              .shm_bytes = 64'000'000'000,
                              .shm_free_bytes = 64'000'000'000,
                              .open_files_limit = 65536,
                              .most_open_files = 65536};
  const check::HostNeeds needs{.num_gpus = 8, .files = 163, .pinned_bytes = 8'000'000'000};
  for (const Item& item : check::judge_host(good, needs)) {
    CAPTURE(item.name);
    CHECK(item.status == Status::pass);
  }

  check::HostState job = good;
  job.group_limit_bytes = 8'000'000'000;
  job.group_used_bytes = 1'000'000'000;
  const Items in_job = check::judge_host(job, needs);
  CHECK(find(in_job, "host memory")->status == Status::warn);
  CHECK(find(in_job, "host memory")->measured == "7.00 GB free of the 8.00 GB that the job or container may take");
  CHECK(find(in_job, "host memory")->advice.find("--mem") != std::string::npos);

  check::HostState container = good;
  container.shm_bytes = container.shm_free_bytes = 67'108'864;
  CHECK(find(check::judge_host(container, needs), "/dev/shm")->status == Status::warn);
  CHECK(find(check::judge_host(container, needs), "/dev/shm")->advice.starts_with("docker run --shm-size=1g"));
  CHECK(find(check::judge_host(container, {.num_gpus = 1}), "/dev/shm")->status == Status::pass);

  check::HostState few_files = good;
  few_files.open_files_limit = 1024;
  CHECK(find(check::judge_host(few_files, needs), "open files")->status == Status::fail);
  CHECK(find(check::judge_host(few_files, needs), "open files")->expected.starts_with("1251 or more"));
  CHECK(find(check::judge_host(few_files, needs), "open files")->advice == "ulimit -n 65536");
  few_files.most_open_files = 1024;
  CHECK(find(check::judge_host(few_files, needs), "open files")->advice.find("limits.conf") != std::string::npos);
}

TEST_CASE("this machine's own state can be read") {
  const check::HostState host = check::read_host();
  CHECK(host.total_bytes > 0);
  CHECK(host.available_bytes > 0);
  CHECK(host.open_files_limit > 0);
}

TEST_CASE("an output folder is written to, leaves nothing behind, and is held against what is needed") {
  const test::TempFolder folder;
  const check::WriteTrial trial = check::try_writing(folder.path(), std::uint64_t{24} << 20);
  CHECK(fs::is_empty(folder.path()));
  CHECK(trial.rate > 0);
  CHECK(trial.free_bytes > 0);
  const Items enough = check::judge_writing(trial, 1000);
  CHECK(enough[0].status == Status::pass);

  const check::WriteTrial slow{
      .folder = "/data", .free_bytes = 1'000'000'000, .is_in_memory = false, .is_direct = true, .rate = 5e7};
  const Items items = check::judge_writing(slow, 27'000'000'000);
  CHECK(items[0].status == Status::fail);
  CHECK(items[0].measured == "1.00 GB free in /data");
  CHECK(items[0].expected == "27.0 GB for the output");
  CHECK(items[1].status == Status::warn);
  CHECK(items[1].measured == "50.0 MB/s, 9 min for the output");
  CHECK_THROWS_WITH_AS(check::try_writing(folder / "no-such", 0), doctest::Contains("is no folder"), Error);
}

TEST_CASE("a checkpoint's disk that is slow is told, and one that is too small to tell is not") {
  const test::TempFolder folder;
  const fs::path file = folder.write("weights", std::string(100'000, 'x'));
  const check::ReadTrial trial = check::try_reading({file}, 1'000'000'000);
  CHECK(trial.bytes == 100'000);
  CHECK(check::judge_reading(trial, 100'000).status == Status::skip);
  const check::ReadTrial slow{.bytes = 1'000'000'000, .is_in_memory = false, .is_direct = true, .rate = 1e8};
  CHECK(check::judge_reading(slow, 457'000'000'000).status == Status::warn);
  CHECK(check::judge_reading(slow, 457'000'000'000).measured == "100 MB/s, 76 min for all of 457 GB");
}

TEST_CASE("a checkpoint that is whole passes, and every shard that is not is named") {
  const Shards shards;
  const check::Model whole = check::check_model(shards.folder.path().string(), /*reads_text=*/false);
  CHECK(whole.is_understood);
  CHECK(find(whole.items, "checkpoint")->measured.find("7 files, 35 tensors") != std::string::npos);
  CHECK(find(whole.items, "config")->status == Status::pass);
  CHECK(find(whole.items, "tensors")->status == Status::pass);
  CHECK(find(whole.items, "tokenizer")->status == Status::warn);
  CHECK(find(check::check_model(shards.folder.path().string(), true).items, "tokenizer")->status == Status::fail);

  fs::resize_file(shards.shard(3), fs::file_size(shards.shard(3)) - 100);
  fs::resize_file(shards.shard(6), 5);
  const check::Model cut = check::check_model(shards.folder.path().string(), false);
  CHECK_FALSE(cut.is_understood);
  std::size_t named = 0;
  for (const Item& item : cut.items) {
    CHECK(item.status == Status::fail);
    CHECK(item.advice.find("fetch it again") != std::string::npos);
    if (item.measured.find("-00003-of") != std::string::npos) ++named;
    if (item.measured.find("-00006-of") != std::string::npos) ++named;
  }
  CHECK(cut.items.size() == 2);
  CHECK(named == 2);

  fs::remove(shards.shard(6));
  fs::remove(shards.shard(3));
  const check::Model missing = check::check_model(shards.folder.path().string(), false);
  CHECK(missing.items[0].measured.find("which is missing") != std::string::npos);
}

TEST_CASE("a config that is not understood, and tensors that are missing, are told") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  std::string config = test::kTinyConfig;
  folder.write("config.json", config.replace(config.find("\"num_hidden_layers\": 3"), 22, "\"num_hidden_layers\": 4"));
  const check::Model short_of_a_layer = check::check_model(folder.path().string(), false);
  CHECK(find(short_of_a_layer.items, "tensors")->status == Status::fail);
  folder.write("config.json", R"({"model_type": "mamba"})");
  const check::Model unknown = check::check_model(folder.path().string(), false);
  CHECK(find(unknown.items, "config")->status == Status::fail);
  CHECK(find(unknown.items, "tokenizer") == nullptr);
}

TEST_CASE("every byte is read, and held against the checksum that the Hub's cache has") {
  const HubCache cache;
  {
    const check::Model model = check::check_model(cache.snapshot.string(), false);
    REQUIRE(model.is_understood);
    std::uint64_t most = 0;
    const Items items = check::check_bytes(*model.checkpoint, [&](std::uint64_t done, std::uint64_t) { most = done; });
    CHECK(most == fs::file_size(cache.blob));
    REQUIRE(items.size() == 1);
    CHECK(items[0].status == Status::pass);
    CHECK(items[0].measured.ends_with("1 of 1 files with a checksum to hold them against"));
  }
  flip_last_byte(cache.blob);
  const check::Model model = check::check_model(cache.snapshot.string(), false);
  REQUIRE(model.is_understood);  // its header is as it was
  const Items items = check::check_bytes(*model.checkpoint, no_progress);
  REQUIRE(items.size() == 1);
  CHECK(items[0].status == Status::fail);
  CHECK(items[0].name == "file model.safetensors");
  CHECK(items[0].expected == cache.blob.filename().string());
  CHECK(items[0].advice.find("fetch it again") != std::string::npos);
}

TEST_CASE("a download to a folder has its checksums beside it") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  CHECK(check::expected_sha256(folder / "model.safetensors").empty());
  const std::string sum(64, 'a');
  folder.write(".cache/huggingface/download/model.safetensors.metadata", "revision\n" + sum + "\n1700000000.5\n");
  CHECK(check::expected_sha256(folder / "model.safetensors") == sum);
  const check::Model model = check::check_model(folder.path().string(), false);
  CHECK(check::check_bytes(*model.checkpoint, no_progress)[0].status == Status::fail);
}

TEST_CASE("reading every byte ends when it is asked to") {
  const Shards shards;
  const check::Model model = check::check_model(shards.folder.path().string(), false);
  const auto stop = [](std::uint64_t, std::uint64_t) {
    throw Error({.kind = ErrorKind::interrupted, .where = "run", .what = "stopped as asked"});
  };
  CHECK_THROWS_WITH_AS(check::check_bytes(*model.checkpoint, stop), doctest::Contains("stopped as asked"), Error);
}

}  // namespace layerprobe
