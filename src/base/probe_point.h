#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/dtype.h"

namespace layerprobe {

/// A place in the forward pass whose value can be kept.
///
/// `name` is the path of the transformers module whose output the value is ("model.layers.17.self_attn"), so that a
/// forward hook on named_modules() gives a dataset of the same name. "NAME:input" is that module's input; values that
/// are no module's output have a colon too (".mlp:topk_indices"). The value is [num_tokens, width]: prompts lie end to
/// end, without padding.
///
/// The trap everyone falls into once: "model.layers.K" is what leaves layer K, never normed. It is transformers'
/// hidden_states[K + 1], but for the last layer, where transformers gives the value after model.norm.
struct ProbePoint {
  std::string name;
  Dtype dtype = Dtype::bf16;
  std::int64_t width = 0;

  bool operator==(const ProbePoint&) const = default;
};

/// Does `pattern` name the whole of `name`? '*' stands for any characters but a dot or a colon, so that
/// "model.layers.*" is the layers alone; '**' for any characters.
bool matches(std::string_view pattern, std::string_view name);

/// What the value of a point is, as stored beside it: "residual_after_block" for model.layers.K (and
/// model.language_model.layers.K), "embedding" for embed_tokens, "post_final_norm" for model.norm, "logits" for
/// lm_head, "module_input" for NAME:input, else "module_output".
std::string_view semantics_of(std::string_view name);

/// K of "model.layers.K" and of every point inside that layer ("model.layers.K.mlp"); -1 for a point outside the
/// layers.
int layer_of(std::string_view name);

}  // namespace layerprobe
