#include <cstddef>
#include <utility>
#include <vector>

#include "model/config.h"
#include "model/tensors.h"
#include "tests/fuzz/targets.h"
#include "tokenizer/tokenizer.h"
#include "weights/checkpoint.h"

namespace layerprobe::fuzz {
namespace {

void read_vocabulary(const weights::Checkpoint& checkpoint) {
  weights::GgufTokenizer gguf = *checkpoint.gguf_tokenizer();
  const auto tokenizer = tokenizer::Tokenizer::from_gguf({.model = std::move(gguf.model),
                                                          .pre = std::move(gguf.pre),
                                                          .tokens = std::move(gguf.tokens),
                                                          .token_types = std::move(gguf.token_types),
                                                          .merges = std::move(gguf.merges),
                                                          .bos_token_id = gguf.bos_token_id,
                                                          .add_bos_token = gguf.add_bos_token},
                                                         "m.gguf");
  tokenizer.decode(tokenizer.encode("ab aba 12<s> e\xcc\x81"));
}

}  // namespace

void gguf(std::string_view bytes) {
  const MemoryFile in_memory(bytes);
  expect_answer([&] {
    const weights::Checkpoint checkpoint = weights::Checkpoint::open(in_memory.path());
    checkpoint.hash();
    for (const weights::TensorInfo& tensor : checkpoint.tensors()) {
      std::vector<std::byte> values(static_cast<std::size_t>(tensor.num_elements()) * size_of(Dtype::bf16));
      checkpoint.read(tensor, Dtype::bf16, values.data());
    }
    expect_answer([&] { read_vocabulary(checkpoint); });
    const model::ModelConfig config = model::read_config(checkpoint.config(), "m.gguf");
    if (config.num_hidden_layers <= 100) model::check_tensors(config, checkpoint);
  });
}

}  // namespace layerprobe::fuzz
