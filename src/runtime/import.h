#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "store/writer.h"

namespace layerprobe::runtime {

/// The options of `import`, as typed.
struct ImportOptions {
  std::vector<std::string> sources = {};  // folders with .npy and .safetensors files, or such files
  std::vector<std::string> map = {};      // array_names.h; empty: "{prompt}/{point}", then "{point}"
  std::string vllm_layers = {};           // "1,2,36": eagle_aux_hidden_state_layer_ids; empty: not vLLM's files
  std::string input_ids_file = {};        // --input-ids: .json or .npy
  std::string tokens = "all";             // "all" or "last": which token of its prompt each row is
  std::string dtype = {};                 // that the engine computed in; empty: what the arrays hold
  std::string engine = {};                // what made them, in words
  std::string output = {};
  store::Writer::IfExists if_exists = store::Writer::IfExists::refuse;
  std::string command_line = {};
};

struct ImportReport {
  std::string output;
  std::int64_t num_points = 0, num_prompts = 0, num_rows = 0;
  std::uint64_t bytes = 0;            // of captures
  bool has_input_ids = false;         // without, no run of prompts can be compared with it
  std::vector<std::string> left_out;  // names of arrays that no pattern matches
  bool took_v2_as_bfloat16 = false;
};

/// Makes a captured file of another engine's arrays. An array is [rows, width], with axes of 1 before it or none; of
/// one prompt, or of all of them end to end. .npy: f2, f4, f8, i4, i8, and V2, which is how numpy writes ml_dtypes'
/// bfloat16; safetensors: F16, BF16, F32, F64, I32, I64. Integers become int32.
///
/// vLLM's files are those of its ExampleHiddenStatesConnector (v0.18 to v0.23): one a request, with `token_ids`
/// [tokens] and `hidden_states` [tokens, layers, hidden_size], whose layer ids count what enters a layer: 0 is
/// model.embed_tokens, K is model.layers.{K-1}, and the number of layers is the last one's output, not normed.
///
/// Everything is checked before the output is made. Throws Error(input), naming file and tensor, where something does
/// not fit; Error(usage) for options. `progress` gets the share that is done.
ImportReport import_arrays(const ImportOptions& options, const std::function<void(double)>& progress = {});

}  // namespace layerprobe::runtime
