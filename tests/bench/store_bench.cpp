// How fast the store takes rows, and what its medium allows:
//
//   layerprobe_bench_store FOLDER GIB [THREADS...]
//   layerprobe_bench_store /dev/shm 4 1 4 8
//
// Prints a table with a row for each number of threads: GB/s (10^9 bytes) of Writer::write_rows of all rows of a run
// and one commit, from the Writer's making on (its space is set aside meanwhile); the same of bare writes of the same
// bytes to a file whose space is set aside, and synced: pwrite past the page cache on a disk, through it in memory; and
// the seconds that write_rows waited for space. Blocks are 8 MiB, aligned; rows are 8 KiB, 32 points.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iomanip>
#include <iostream>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/handle.h"
#include "base/text.h"
#include "store/writer.h"

namespace {

using namespace layerprobe;

constexpr std::int64_t kPoints = 32, kWidth = 4096, kRowsABlock = 1024;
constexpr std::size_t kBlockBytes = std::size_t{8} << 20;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Hands out the blocks in order to threads that each have a block of memory.
void write_blocks(int threads, std::int64_t blocks,
                  const std::function<void(std::int64_t block, std::span<const std::byte>)>& write) {
  std::atomic<std::int64_t> next = 0;
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&] {
      const Handle<void*, std::free, nullptr> memory(std::aligned_alloc(4096, kBlockBytes));
      std::memset(memory.get(), 1, kBlockBytes);
      const std::span bytes(static_cast<const std::byte*>(memory.get()), kBlockBytes);
      for (std::int64_t block = next++; block < blocks; block = next++) write(block, bytes);
    });
  }
  for (std::thread& thread : running) thread.join();
}

store::Layout layout_of(std::int64_t rows) {
  store::Layout layout;
  for (std::int64_t i = 0; i < kPoints; ++i) {
    layout.points.push_back({.point = {.name = text("model.layers.", i), .dtype = Dtype::bf16, .width = kWidth}});
  }
  layout.prompts.cu_seqlens = layout.rows.cu_rows = {0, rows};
  layout.rows.position.resize(static_cast<std::size_t>(rows));
  return layout;
}

int run(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: layerprobe_bench_store FOLDER GIB [THREADS...]\n";
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  const std::int64_t batches = std::max<std::int64_t>(1, std::atoll(argv[2]) * 1024 / 8 / kPoints);
  const std::int64_t blocks = batches * kPoints;
  const double gigabytes = static_cast<double>(blocks) * kBlockBytes / 1e9;
  std::vector<int> thread_counts;
  for (int i = 3; i < argc; ++i) thread_counts.push_back(std::atoi(argv[i]));
  if (thread_counts.empty()) thread_counts = {1, 2, 4, 8};
  const std::filesystem::path path = folder / "layerprobe_bench_store.h5",
                              bare_path = folder / "layerprobe_bench_store";

  std::cout << "threads  store GB/s  waited s  bare GB/s\n" << std::fixed << std::setprecision(2);
  for (const int threads : thread_counts) {
    double store_seconds = 0, waited_seconds = 0, bare_seconds = 0;
    {
      const auto start = std::chrono::steady_clock::now();
      store::Writer writer(path, layout_of(batches * kRowsABlock), store::Writer::IfExists::overwrite);
      write_blocks(threads, blocks, [&](std::int64_t block, std::span<const std::byte> bytes) {
        writer.write_rows(static_cast<std::size_t>(block % kPoints), block / kPoints * kRowsABlock, bytes);
      });
      writer.mark_complete(0, 0);
      writer.commit();
      store_seconds = seconds_since(start);
      waited_seconds = writer.waited_seconds();
    }
    remove_file(path.string() + ".partial");
    {
      const File file = File::create(bare_path);
      file.allocate(0, static_cast<std::uint64_t>(blocks) * kBlockBytes);
      const std::optional<File> direct = file.open_direct();
      const File& bare = direct && !file.is_in_memory() ? *direct : file;
      const auto start = std::chrono::steady_clock::now();
      write_blocks(threads, blocks, [&](std::int64_t block, std::span<const std::byte> bytes) {
        bare.write_at(static_cast<std::uint64_t>(block) * kBlockBytes, bytes);
      });
      file.sync_data();
      bare_seconds = seconds_since(start);
    }
    remove_file(bare_path);
    std::cout << std::setw(7) << threads << std::setw(12) << gigabytes / store_seconds << std::setw(10)
              << waited_seconds << std::setw(11) << gigabytes / bare_seconds << std::endl;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const layerprobe::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
