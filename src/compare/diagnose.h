#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compare/difference.h"
#include "compare/sample.h"

namespace layerprobe::compare {

/// What a difference looks like.
enum class Kind {
  layer_offset,    // another layer's values stand under this name
  post_norm,       // the last layer's value was taken behind model.norm, or model.norm's in front of it
  non_finite,      // NaN or infinite on one side
  overflow,        // infinite where the reference is over float16's largest
  token_shift,     // another token's values stand at this token
  scale,           // the whole is the reference times one factor
  channel_order,   // other channels' values stand in these channels
  few_channels,    // nearly all of it lies in a few channels
  channel_scale,   // each channel is the reference's times a factor of its own: a norm's weight
  token_scale,     // each token is the reference's times a factor of its own: a norm's epsilon
  channel_offset,  // every token is off by the same vector: a bias
  attention,       // token 0 of each prompt is right and later ones are not: what tokens attend to
  few_tokens,      // nearly all of it lies in a few tokens
  expert,          // only tokens that went to some of the experts are off
  routing,         // other experts were chosen
  precision,       // the candidate's values are those of a narrower dtype
  kind_of_value,   // another width or dtype
  gradual,         // grows over many layers, none of which stands out
  values,          // none of these: other weights, or another formula
};

/// "layer-offset", as --json has it
std::string_view name_of(Kind kind);

struct Diagnosis {
  Kind kind = Kind::values;
  std::string words;  // "the whole is 1.01 times the reference"
};

/// Of one point that does not agree, from some of its rows. `computed` is what the candidate's run computed in.
Diagnosis diagnose(const Sample& sample, const Difference& difference, Dtype computed);

/// The same of what the block adds to the residual stream: `before` are the same rows of what entered it.
Diagnosis diagnose_added(const Sample& sample, const Sample& before, const Difference& difference, Dtype computed);

/// Of a router's weights. `sample` holds tokens with the same experts, expert by expert.
Diagnosis diagnose_weights(const Sample& sample, const Difference& difference, Dtype computed);

/// Are only tokens off that went to some few experts? `experts` are those of each row of the sample, [num_rows, k].
std::optional<Diagnosis> diagnose_experts(const Sample& sample, const std::vector<std::int32_t>& experts);

/// Where a difference begins and what it looks like.
struct Finding {
  std::string point;
  Kind kind = Kind::values;
  std::string words;
};

}  // namespace layerprobe::compare
