#include "check/model.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <exception>
#include <filesystem>
#include <future>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/text.h"
#include "model/tensors.h"
#include "runtime/prepared.h"
#include "weights/hub_cache.h"
#include "weights/safetensors.h"

namespace layerprobe::check {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostShards = 20;  // that are told by name

/// The names, the first few of many.
std::string some_of(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 5;
  if (names.size() <= kShown) return join(names, ", ");
  return text(join(std::span(names).first(kShown), ", "), " and ", names.size() - kShown, " more");
}

/// Opening ends at the first shard that is damaged: what of the others?
Items other_damage(const std::string& model, const std::string& first) {
  std::error_code ignored;
  fs::path folder = model;
  if (!fs::exists(folder, ignored) && weights::is_hub_id(model)) folder = weights::find_in_hub_cache(model);
  if (!fs::is_directory(folder, ignored)) return {};
  std::vector<fs::path> shards;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().extension() == ".safetensors") shards.push_back(entry.path());
  }
  std::ranges::sort(shards);
  Items items;
  for (const fs::path& shard : shards) {
    try {
      weights::read_safetensors_header(File::open_for_reading(shard), 0);
    } catch (const Error& error) {
      if (error.what() == first) continue;
      if (items.size() < kMostShards) items.push_back(failed(text("shard ", shard.filename().string()), error));
    }
  }
  return items;
}

Item judge_config(const model::ModelConfig& config) {
  Item item{
      .name = "config",
      .measured = text(config.model_type, ", ", config.num_hidden_layers, " layers, hidden_size ", config.hidden_size,
                       config.experts ? text(", ", config.experts->num_experts, " experts") : "")};
  if (config.unused_keys.empty()) return item;
  item.status = Status::warn;
  item.measured += text("; keys that are not used: ", some_of(config.unused_keys));
  item.expected = "keys that are known";
  item.advice = "see that none of them changes what the model computes (layerprobe inspect MODEL)";
  return item;
}

Item judge_tokenizer(const weights::Checkpoint& checkpoint, std::int64_t vocab_size, bool reads_text) {
  Item item{.name = "tokenizer"};
  try {
    const tokenizer::Tokenizer tokenizer = runtime::open_tokenizer(checkpoint);
    item.measured = text(tokenizer.vocab_size(), " tokens");
    const std::vector<std::int32_t> ids = tokenizer.encode("The capital of France is Paris.");
    const auto largest = std::ranges::max_element(ids);
    if (largest == ids.end() || *largest < vocab_size) return item;
    item.status = Status::fail;
    item.measured = text("gives id ", *largest);
    item.expected = text("ids below vocab_size ", vocab_size);
    item.advice = "tokenizer and config.json are of different models; fetch both from one revision";
  } catch (const Error& error) {
    item = failed(item.name, error);
    if (!reads_text) item.status = Status::warn;
  }
  return item;
}

/// Reads a file from its first byte to its last. Throws what `told` throws.
std::string sha256_of(const File& file, bool hashes, const std::function<void(std::uint64_t)>& told) {
  constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
  std::vector<char> piece(kPieceBytes);
  Sha256 sha;
  const std::uint64_t size = file.size();
  for (std::uint64_t at = 0; at < size; at += kPieceBytes) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, size - at));
    file.read_at(at, std::as_writable_bytes(std::span(piece).first(count)));
    if (hashes) sha.add({piece.data(), count});
    told(count);
  }
  return hashes ? sha.hex() : "";
}

bool is_sha256(const std::string& name) {
  return name.size() == 64 && std::ranges::all_of(name, [](unsigned char c) { return std::isxdigit(c) != 0; });
}

}  // namespace

std::uint64_t Model::bytes() const {
  std::uint64_t sum = 0;
  for (const fs::path& file : checkpoint->files()) sum += File::open_for_reading(file).size();
  return sum;
}

Model check_model(const std::string& name, bool reads_text) {
  Model out;
  try {
    out.checkpoint.emplace(weights::Checkpoint::open(name));
  } catch (const Error& error) {
    out.items.push_back(failed("checkpoint", error));
    add(out.items, "checkpoint", [&] { return other_damage(name, error.what()); });
    return out;
  }
  const weights::Checkpoint& checkpoint = *out.checkpoint;
  const std::size_t num_files = checkpoint.files().size();
  out.items.push_back(
      {.name = "checkpoint",
       .measured = text(checkpoint.display_name(), ", ", num_files, num_files == 1 ? " file, " : " files, ",
                        checkpoint.tensors().size(), " tensors, ", bytes_text(out.bytes()))});
  std::int64_t vocab_size = 0;
  try {
    const std::string where =
        checkpoint.is_gguf() ? checkpoint.path().string() : (checkpoint.path() / "config.json").string();
    model::ModelConfig config = model::read_config(checkpoint.config(), where);
    vocab_size = config.vocab_size;
    out.items.push_back(judge_config(config));
    model::take_stored_dtypes(config, checkpoint);
    try {
      const std::vector<std::string> unused = model::check_tensors(config, checkpoint);
      out.items.push_back({.name = "tensors",
                           .measured = unused.empty()
                                           ? "all that the config asks for"
                                           : text("all that the config asks for; not used: ", some_of(unused))});
      out.is_understood = true;
    } catch (const Error& error) {
      out.items.push_back(failed("tensors", error));
    }
  } catch (const Error& error) {
    out.items.push_back(failed("config", error));
  }
  if (vocab_size > 0) out.items.push_back(judge_tokenizer(checkpoint, vocab_size, reads_text));
  return out;
}

std::string expected_sha256(const fs::path& file) {
  std::error_code ignored;
  const fs::path real = fs::canonical(file, ignored);
  if (real.parent_path().filename() == "blobs" && is_sha256(real.filename().string())) return real.filename().string();
  const fs::path metadata =  // of `hf download --local-dir`: revision, entity tag, time, a line each
      file.parent_path() / ".cache/huggingface/download" / (file.filename().string() + ".metadata");
  if (!fs::is_regular_file(metadata, ignored)) return {};
  const std::vector<std::string> lines = split(read_text_file(metadata, 10'000), '\n');
  return lines.size() > 1 && is_sha256(lines[1]) ? lines[1] : std::string();
}

Items check_bytes(const weights::Checkpoint& checkpoint,
                  const std::function<void(std::uint64_t done, std::uint64_t all)>& read) {
  const std::vector<fs::path>& files = checkpoint.files();
  std::uint64_t all = 0;
  for (const fs::path& file : files) all += File::open_for_reading(file).size();
  std::mutex mutex;
  std::uint64_t done = 0;
  std::exception_ptr stopped;  // what `read` threw
  std::atomic<bool> stops = false;
  const auto told = [&](std::uint64_t bytes) {
    const std::lock_guard lock(mutex);
    done += bytes;
    if (stopped) std::rethrow_exception(stopped);
    try {
      read(done, all);
    } catch (...) {
      stopped = std::current_exception();
      stops = true;
      throw;
    }
  };
  Items bad;
  std::size_t with_checksum = 0;
  std::atomic<std::size_t> next = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto work = [&] {
    for (std::size_t i = 0; (i = next++) < files.size() && !stops;) {
      const std::string name = text("file ", files[i].filename().string());
      try {
        const std::string due = expected_sha256(files[i]);
        const std::string found = sha256_of(File::open_for_reading(files[i]), !due.empty(), told);
        const std::lock_guard lock(mutex);
        if (!due.empty()) ++with_checksum;
        if (due == found) continue;
        bad.push_back({.name = name,
                       .status = Status::fail,
                       .measured = text("SHA-256 ", found),
                       .expected = due,
                       .advice = "it is damaged: remove it and fetch it again (hf download)"});
      } catch (const Error& error) {
        const std::lock_guard lock(mutex);
        bad.push_back(failed(name, error));
      }
    }
  };
  {
    std::vector<std::future<void>> workers;
    const std::size_t count = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, 16);
    for (std::size_t i = 0; i < std::min(count, files.size()); ++i) {
      workers.push_back(std::async(std::launch::async, work));
    }
    for (std::future<void>& worker : workers) worker.wait();
  }
  if (stopped) std::rethrow_exception(stopped);
  const double seconds =
      std::max(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 1e-9);
  std::ranges::sort(bad, {}, &Item::name);
  if (!bad.empty()) return bad;
  return {{.name = "every byte",
           .measured = text(bytes_text(all), " read at ",
                            bytes_text(static_cast<std::uint64_t>(static_cast<double>(all) / seconds)), "/s, ",
                            with_checksum, " of ", files.size(), " files with a checksum to hold them against")}};
}

}  // namespace layerprobe::check
