#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "store/writer.h"

namespace layerprobe::runtime {

struct MergeOptions {
  std::filesystem::path output;
  std::vector<std::filesystem::path> shards;  // in any order
  store::Writer::IfExists if_exists = store::Writer::IfExists::refuse;
  std::string command_line;  // kept in the file
};

/// What a merge tells while it goes on, from the thread that called it.
struct MergeWatch {
  std::function<void(double share)> step = [](double) {};
  std::function<bool()> should_stop = [] { return false; };
};

struct MergeReport {
  std::string output;
  std::int64_t num_shards = 0;
  std::int64_t num_prompts = 0;
  std::int64_t num_tokens = 0;
  std::int64_t num_points = 0;
  std::uint64_t captured_bytes = 0;
  std::uint64_t resumed_bytes = 0;  // that an earlier merge had copied
  bool was_finished = false;        // a finished file that matches was there: nothing was done
  double seconds = 0;
};

/// Copies shards, which `run --shard` wrote, into one file that reads as if one run had made it: captures, statistics,
/// prompts, rows, completion and ranks have the same bits. Everything is checked before the file is made: throws
/// Error(input), naming the file and the first difference, unless the shards are finished, of one model, input and
/// numerics, and hold each prompt once. Stopped half-way it leaves a partial file, which IfExists::resume continues.
MergeReport merge(const MergeOptions& options, const MergeWatch& watch);

}  // namespace layerprobe::runtime
