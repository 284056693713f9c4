#include "cli/common_options.h"

#include "base/text.h"
#include "cli/usage.h"

namespace layerprobe::cli {
namespace {

void add_input_options(CLI::App& command, runtime::InputOptions& input) {
  const char* group = "Input (exactly one kind)";
  command.add_option("--prompt", input.prompts, "A prompt; may be repeated")
      ->type_name("TEXT")
      ->take_all()
      ->allow_extra_args(false)
      ->group(group);
  command.add_option("--prompts", input.prompts_file, ".txt with a prompt a line, or .jsonl with text or input_ids")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--input-ids", input.input_ids_file,
                  ".json with a list of ids a prompt ([[1, 5], [7]]), or .npy with integers [prompts, tokens]")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--random-tokens", input.random_tokens, "Random ids: prompts x tokens, and a seed (0)")
      ->type_name("64x1024[:SEED]")
      ->group(group);
  command
      .add_option("--hidden-states", input.hidden_states_file,
                  "A captured file whose hidden states are fed to single and multi")
      ->type_name("FILE.h5")
      ->group(group);
  command
      .add_option("--random-hidden-states", input.random_hidden_states,
                  "Normally distributed hidden states for single and multi (single: 1x128:0 without any input)")
      ->type_name("1x128[:SEED]")
      ->group(group);
}

}  // namespace

void add_common_options(CLI::App& command, CommonArguments& common) {
  runtime::RunOptions& run_options = common.run;
  plan::Request& request = run_options.request;
  command
      .add_option("--model", run_options.model,
                  "A folder with config.json and *.safetensors, a .gguf file, or an org/name in the Hugging Face cache")
      ->envname("MODEL_PATH")
      ->required()
      ->type_name("PATH");
  command
      .add_option("--test-type", common.test_type,
                  "single: layers by themselves; multi: a range of layers; full: the whole model with its head; "
                  "extract-all: the output of every layer")
      ->capture_default_str()
      ->type_name("single|multi|full|extract-all");
  command
      .add_option("--layers", request.layers,
                  "3, 0-7 or 0,8,-1: what single (default 0) and multi (all) run, what full and extract-all keep (all)")
      ->type_name("LAYERS");
  add_input_options(command, run_options.input);
  command
      .add_option("--shard", common.shard,
                  "Run a part of the input's prompts: part INDEX, from 0, of COUNT parts without a gap, as even in "
                  "prompts as can be; layerprobe merge puts their files together (all)")
      ->type_name("INDEX/COUNT");
  command
      .add_option("--dtype", run_options.dtype,
                  "auto (config.json's; bfloat16 for a GGUF), bfloat16, float16, float32 or float64")
      ->capture_default_str()
      ->type_name("DTYPE");
  command
      .add_option("--device-map", run_options.device_map,
                  "auto, balanced, balanced_low_0, sequential, cuda, cuda:N, cpu, a list (cuda:0,cuda:1), or a JSON "
                  "object of modules and devices (@FILE.json)")
      ->envname("DEVICE_MAP")
      ->capture_default_str()
      ->type_name("MAP");
  command
      .add_option("--max-memory", run_options.max_memory,
                  "What may be taken: 40GB (of each GPU), 75GiB,40GiB (in order), 0:60GB,1:40GB,cpu:200GB, or JSON; "
                  "GB is 10^9 bytes, GiB 2^30, and lower case means the same (all there is)")
      ->envname("MAX_MEMORY")
      ->type_name("SIZES");
  command
      .add_option("--replicas", run_options.num_replicas,
                  "Pipelines that take micro-batches from one queue, with --device-map auto (as many as pay)")
      ->check(whole_number_from_1)
      ->type_name("N");
  command
      .add_option(
          "--transport", common.transport,
          "How hidden states go between devices: peer, straight; nccl, by NCCL; host, through its memory; auto: "
          "peer where that is possible and proven with data, unless NCCL_P2P_DISABLE is set. With peer, replicas also "
          "copy their weights from the devices of the first")
      ->capture_default_str()
      ->type_name("auto|peer|nccl|host");
  command
      .add_option("--fp8-math", common.fp8_math,
                  "How weights stored as FP8 are multiplied: dequantize, expanded to --dtype; w8a8, as they are, with "
                  "the products' inputs rounded to FP8 too (compute capability 9.0)")
      ->capture_default_str()
      ->type_name("dequantize|w8a8");
  command
      .add_option("--capture", request.capture,
                  "Patterns of points to keep instead of the test type's own, comma-separated or repeated; * stops "
                  "at a dot, ** does not")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->take_all()
      ->type_name("PATTERNS");
  command
      .add_option("--tokens", request.tokens,
                  "Positions of each prompt to keep: all, last, mean or START:STOP:STEP (all; full: last)")
      ->type_name("TOKENS");
  command
      .add_option("--tokens-per-batch", run_options.tokens_per_batch,
                  "Tokens that go through a layer together (as the device likes); a longer prompt goes by itself")
      ->check(whole_number_from_1)
      ->type_name("N");
  command.add_option("--output", run_options.output, "Where it goes (<model>-<test-type>.h5 here); none discards it")
      ->type_name("FILE.h5|none");
  command.add_flag("--json", common.json, "Print the report as JSON");
  command.add_flag("--quiet", common.quiet, "No progress, warnings or report");
}

runtime::RunOptions& finished(CommonArguments& common) {
  common.run.request.test_type = plan::parse_test_type(common.test_type);
  common.run.transport = runtime::parse_transport(common.transport);
  if (!common.shard.empty()) common.run.shard = runtime::parse_shard(common.shard);
  common.run.fp8_math = runtime::parse_fp8_math(common.fp8_math);
  for (std::string& prompt : common.run.input.prompts) {
    if (prompt.starts_with(kTextMark)) prompt.erase(0, 1);
  }
  return common.run;
}

std::string shard_text(const runtime::Part& part) {
  return text("shard ", runtime::text_of(part.shard), ": prompts ", part.first_prompt, " to ",
              part.first_prompt + part.num_prompts - 1, " of ", part.whole_prompts);
}

Json shard_json(const std::optional<runtime::Part>& part) {
  if (!part) return {};
  Json out;
  out.set("index", part->shard.index);
  out.set("count", part->shard.count);
  out.set("first_prompt", part->first_prompt);
  out.set("num_prompts", part->num_prompts);
  out.set("whole_prompts", part->whole_prompts);
  return out;
}

}  // namespace layerprobe::cli
