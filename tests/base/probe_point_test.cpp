#include "base/probe_point.h"

#include <doctest/doctest.h>

namespace layerprobe {

TEST_CASE("a star stops at a dot or colon and two stars do not") {
  CHECK(matches("model.layers.*", "model.layers.17"));
  CHECK_FALSE(matches("model.layers.*", "model.layers.17.mlp"));
  CHECK(matches("model.layers.**", "model.layers.17.mlp.gate_proj"));
  CHECK(matches("**", "lm_head"));
  CHECK(matches("**.mlp", "model.layers.3.mlp"));
  CHECK(matches("model.layers.*.self_attn.*_proj", "model.layers.0.self_attn.q_proj"));
  CHECK_FALSE(matches("model.layers.1", "model.layers.10"));
  CHECK_FALSE(matches("model.layers.*", "model.layers.2:input"));
  CHECK(matches("model.layers.*:input", "model.layers.2:input"));
  CHECK(matches("model.layers.2**", "model.layers.2:input"));
  CHECK(matches("", ""));
  CHECK_FALSE(matches("", "a"));
  CHECK(matches("***", "a.b"));
}

TEST_CASE("names say which layer and what kind of value") {
  CHECK(layer_of("model.layers.17.mlp.gate") == 17);
  CHECK(layer_of("model.language_model.layers.3") == 3);
  CHECK(layer_of("model.norm") == -1);
  CHECK(layer_of("model.layers.x") == -1);
  CHECK(semantics_of("model.layers.17") == "residual_after_block");
  CHECK(semantics_of("model.layers.17:input") == "module_input");
  CHECK(semantics_of("model.layers.17.mlp") == "module_output");
  CHECK(semantics_of("model.norm") == "post_final_norm");
  CHECK(semantics_of("model.embed_tokens") == "embedding");
  CHECK(semantics_of("lm_head") == "logits");
}

}  // namespace layerprobe
