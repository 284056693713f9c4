#include "runtime/prepared.h"

#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "model/tensors.h"

namespace layerprobe::runtime {
namespace {

/// What the checkpoint is stored in, where its config does not say.
Dtype stored_dtype(const model::ModelConfig& config, const weights::Checkpoint& checkpoint) {
  const weights::TensorInfo* embedding = checkpoint.find(model::embedding_tensor(config).name);
  if (embedding == nullptr) return Dtype::bf16;
  switch (embedding->storage) {
    case Storage::f64:
      return Dtype::f64;
    case Storage::f32:
      return Dtype::f32;
    case Storage::f16:
      return Dtype::f16;
    default:
      return Dtype::bf16;
  }
}

Dtype choose_dtype(const std::string& given, const model::ModelConfig& config, const weights::Checkpoint& checkpoint) {
  if (given == "auto") {
    if (checkpoint.is_gguf() || config.fp8) return Dtype::bf16;
    return config.dtype ? *config.dtype : stored_dtype(config, checkpoint);
  }
  const std::optional<Dtype> dtype = find_dtype(given);
  if (dtype) return *dtype;
  throw Error({.kind = ErrorKind::usage,
               .where = "--dtype",
               .what = text("\"", given, "\" is no dtype"),
               .fix = "choose auto, bfloat16, float16, float32 or float64"});
}

/// Random hidden states for single and multi where nothing is given. Throws Error(usage) unless that leaves one kind.
InputOptions with_default(InputOptions input, plan::TestType test_type) {
  const bool takes_hidden_states = test_type == plan::TestType::single || test_type == plan::TestType::multi;
  if (input.kinds() == 0 && takes_hidden_states) input.random_hidden_states = "1x128:0";
  if (input.kinds() == 1) return input;
  throw Error({.kind = ErrorKind::usage,
               .where = "input",
               .what = input.kinds() == 0 ? "no input is given" : "more than one kind of input is given",
               .fix = "give one of --prompt, --prompts, --input-ids, --random-tokens, --hidden-states, "
                      "--random-hidden-states"});
}

model::ModelConfig config_of(const weights::Checkpoint& checkpoint, const std::string& name) {
  model::ModelConfig config = model::read_config(checkpoint.config(), name);
  model::take_stored_dtypes(config, checkpoint);
  return config;
}

}  // namespace

tokenizer::Tokenizer open_tokenizer(const weights::Checkpoint& checkpoint) {
  std::optional<weights::Checkpoint::GgufTokenizer> gguf = checkpoint.gguf_tokenizer();
  if (!gguf) return tokenizer::Tokenizer::from_folder(checkpoint.path());
  return tokenizer::Tokenizer::from_gguf({.model = std::move(gguf->model),
                                          .pre = std::move(gguf->pre),
                                          .tokens = std::move(gguf->tokens),
                                          .token_types = std::move(gguf->token_types),
                                          .merges = std::move(gguf->merges),
                                          .bos_token_id = gguf->bos_token_id,
                                          .add_bos_token = gguf->add_bos_token},
                                         checkpoint.path().string());
}

Prepared::Prepared(const RunOptions& options, const Watch& watch)
    : checkpoint(weights::Checkpoint::open(options.model)), config(config_of(checkpoint, config_name())) {
  warn_unused(watch);
  const InputOptions input = with_default(options.input, options.request.test_type);
  if (input.feeds_hidden_states()) {
    hidden_states.emplace(input, config, options.shard);
    prompts = hidden_states->prompts();
    part = hidden_states->part();
  } else {
    const Encode encode = [&](std::string_view prompt) {
      watch.stop_if_asked();
      return tokenizer().encode(prompt);
    };
    Input given = read_prompts(input, config, encode, options.shard);
    prompts = std::move(given.prompts);
    part = std::move(given.part);
  }
  plan::Request request = options.request;
  request.has_prompts = !hidden_states;
  request.tokens_per_batch = options.tokens_per_batch;
  plan = plan::make_plan(config, choose_dtype(options.dtype, config, checkpoint), prompts, request);
  if (hidden_states) {
    const bool is_single = plan.test_type == plan::TestType::single;
    for (std::size_t i = 0; i < (is_single ? plan.layers.size() : 1); ++i) hidden_states->check(plan.layers[i]);
  }
  if (!part && plan.rows.num_rows() == 0) {  // a shard may have none where others have some
    throw Error({.kind = ErrorKind::usage,
                 .where = "--tokens",
                 .what = text("\"", request.tokens, "\" keeps no token of any prompt"),
                 .fix = "write START:STOP:STEP with tokens that the prompts have, as 0:16; all, last or mean"});
  }
  warn_long_prompts(watch);
}

std::string Prepared::output(const RunOptions& options) const {
  if (!options.output.empty()) return options.output;
  const std::string shard = part ? text("-shard-", part->shard.index, "-of-", part->shard.count) : "";
  return text(checkpoint.display_name(), "-", plan::name_of(plan.test_type), shard, ".h5");
}

std::string Prepared::config_name() const {
  return checkpoint.is_gguf() ? checkpoint.path().string() : (checkpoint.path() / "config.json").string();
}

const tokenizer::Tokenizer& Prepared::tokenizer() {
  if (!tokenizer_) tokenizer_.emplace(open_tokenizer(checkpoint));
  return *tokenizer_;
}

const tokenizer::Tokenizer* Prepared::tokenizer_if_any() {
  if (has_no_tokenizer_) return nullptr;
  try {
    return &tokenizer();
  } catch (const Error&) {
    has_no_tokenizer_ = true;
    return nullptr;
  }
}

void Prepared::warn_unused(const Watch& watch) const {
  const auto warn = [&](const std::vector<std::string>& names, const char* what) {
    constexpr std::size_t kNames = 10;  // of the hundreds that another tower has
    if (!names.empty()) watch.warn(text(what, " not used: ", listed(names, kNames)));
  };
  warn(config.unused_keys, "config.json keys");
  warn(model::check_tensors(config, checkpoint), "tensors");
}

void Prepared::warn_long_prompts(const Watch& watch) const {
  std::int64_t count = 0, longest = 0;
  for (std::int64_t prompt = 0; prompt < prompts.num_prompts(); ++prompt) {
    if (prompts.length(prompt) <= config.max_position_embeddings) continue;
    ++count;
    if (prompts.length(prompt) > prompts.length(longest)) longest = prompt;
  }
  if (count == 0) return;
  watch.warn(text(count, count == 1 ? " prompt has" : " prompts have", " more tokens than the model has positions (",
                  config.max_position_embeddings, ", max_position_embeddings): prompt ", longest, " has ",
                  prompts.length(longest)));
}

}  // namespace layerprobe::runtime
