#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/statistics.h"
#include "plan/plan.h"
#include "runtime/input.h"
#include "runtime/link.h"
#include "runtime/shard.h"
#include "store/writer.h"

namespace layerprobe::runtime {

/// --fp8-math: how weights that are stored as FP8 in blocks are multiplied.
enum class Fp8Math {
  dequantize,  // expanded to the run's dtype
  w8a8,        // as they are, with inputs rounded to FP8: Ops::multiply_fp8
};
/// "dequantize", "w8a8". Throws Error(usage) naming --fp8-math for anything else.
Fp8Math parse_fp8_math(std::string_view text);

/// A run as its options say it.
struct RunOptions {
  std::string model;  // folder, .gguf or org/name
  plan::Request request;
  std::int64_t tokens_per_batch = 0;  // 0: what the device likes
  std::string dtype = "auto";
  std::string device_map = "auto";
  std::string max_memory = {};    // of each device; empty: all there is
  std::int64_t num_replicas = 0;  // pipelines that take micro-batches from one queue; 0: as many as pay
  Transport transport = Transport::automatic;
  Fp8Math fp8_math = Fp8Math::dequantize;
  InputOptions input;
  std::optional<Shard> shard;  // of the input; nothing: all of it
  std::string output;          // FILE.h5, "none", or empty: <model>-<test-type>.h5 here
  store::Writer::IfExists if_exists = store::Writer::IfExists::refuse;
  double commit_every_seconds = 10;       // of work, at most, is lost in a crash; a sync of the file each time
  std::uint64_t pinned_memory_bytes = 0;  // for captures on their way to the file; 0: what the device likes
  std::string command_line;               // kept in the file
};

/// The attributes of a file that its results follow from: equal, prompts apart, in runs that one file can hold.
inline constexpr std::array kIdentity = {
    "model_hash", "weights_sample_hash", "model_type",    "test_type", "dtype", "tokens", "numerics",
    "input",      "code_path",           "matmul_choices"};

/// How a device is, while it runs.
struct DeviceState {
  std::string name;
  std::string modules;  // "embed_tokens, 0-15"
  std::uint64_t memory_bytes = 0;
  std::string waits_for;  // "weights", "upstream", "downstream", "the ring of captures"; empty: it works
  // That it has waited for each, but for a wait that is not over.
  double weights_seconds = 0, upstream_seconds = 0, downstream_seconds = 0, ring_seconds = 0;
};

/// How far a run is.
struct RunState {
  std::uint64_t loaded_bytes = 0, load_bytes = 0;  // of weights that are loaded before it runs: done and in all
  double tokens = 0, num_tokens = 0;               // through all layers, done and in all
  std::uint64_t captured_bytes = 0;                // that this run has handed to its writers
  std::vector<DeviceState> devices;
};

/// What a run tells while it goes on. Called from the threads that run, one at a time, often: whoever listens decides
/// what to show.
struct Watch {
  struct Step {
    enum class Kind { loading, running, reading };
    Kind kind;
    std::uint64_t done;  // bytes of weights (of the whole checkpoint) read, or tokens times layers computed
    std::uint64_t total;
    double seconds;  // since the step began
    std::function<std::vector<DeviceState>()> devices = {};
  };
  std::function<void(const Step&)> step = [](const Step&) {};
  std::function<void(const std::string&)> warn = [](const std::string&) {};
  /// Called every beat_seconds by a thread of its own, whether or not anything goes on, from the first weight to the
  /// last layer, and once at the end of that. What it throws is dropped.
  std::function<void(const RunState&)> beat = {};
  double beat_seconds = 10;
  /// Asked between layers, tensors and prompts: true ends the run there.
  std::function<bool()> should_stop = [] { return false; };

  /// Throws Error(interrupted) when should_stop() says so.
  void stop_if_asked() const;
};

/// What came out.
struct RunReport {
  std::string output;  // the file, or "none"
  plan::TestType test_type;
  Dtype dtype;
  std::string device;
  std::int64_t num_prompts = 0;
  std::int64_t num_tokens = 0;
  std::optional<Part> part;          // where they are a shard's; all prompts here are counted from its first
  std::int64_t computed_tokens = 0;  // in this run: what an earlier one had complete is left out
  std::uint64_t captured_bytes = 0;  // by this run
  std::uint64_t resumed_bytes = 0;   // by an earlier one
  bool was_finished = false;         // a finished file that matches was there: nothing was done
  double load_seconds = 0;
  double run_seconds = 0;
  double total_seconds = 0;
  double waited_seconds = 0;  // for the disk, of run_seconds; the longest of any device

  /// A device, what it had to do, and what kept it from doing it.
  struct Device {
    std::string name;
    std::string modules;
    std::int64_t replica = 0;
    std::string weights_from;      // the device that they were copied from; empty: the checkpoint
    std::uint64_t most_bytes = 0;  // of memory, at any time
    double busy_seconds = 0;
    double busy_share = 0;  // of run_seconds
    double waited_for_weights_seconds = 0;
    double waited_for_upstream_seconds = 0;
    double waited_for_downstream_seconds = 0;
    double waited_for_ring_seconds = 0;
  };
  std::vector<Device> devices;
  /// How hidden states went from one device to another.
  struct Transfer {
    std::string from, to;
    std::string transport;  // "peer", "nccl" or "host"
    std::string why;        // where it is not what was asked for; else empty
  };
  std::vector<Transfer> transfers;
  std::int64_t num_waves = 0;  // times that streamed weights were read; 0: all are resident
  struct Experts {
    std::int64_t num_read = 0, num_all = 0;
  };
  Experts chosen_experts;  // of layers of which those that some token chose were read; 0 of 0: all were
  struct Predicted {
    double load_seconds = 0;
    double run_seconds = 0;
    double tokens_per_second = 0;
    std::string binds;
  };
  Predicted predicted;

  struct Point {
    std::string name;
    std::int64_t width;
    bool stored;
    Statistics statistics;
  };
  std::vector<Point> points;

  /// The first value that is NaN or infinite, in the order of the forward pass.
  struct NonFinite {
    std::string point;
    std::int64_t prompt;
    std::int64_t token;                 // of the prompt; -1: in the mean over them
    std::int64_t nan_count, inf_count;  // of the whole point
  };
  std::optional<NonFinite> first_non_finite;

  struct Ranked {
    std::int64_t prompt, token;
    std::vector<std::int32_t> ids;
    std::vector<float> logits;
    std::vector<std::string> texts;  // empty where there is no tokenizer
  };
  std::vector<Ranked> top_k;  // of each kept row, computed in this run
};

/// Opens the model, reads the input, plans, loads what the plan needs and runs it into a file. Throws Error for
/// whatever keeps it from running; nothing stands under the output's final name then. A run that is asked to stop
/// writes and commits what it has and throws Error(interrupted), which says how to go on.
RunReport run(const RunOptions& options, const Watch& watch);

}  // namespace layerprobe::runtime
